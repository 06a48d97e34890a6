//! What a lease has left behind on its connection.

use redis::{Cmd, Pipeline};

use crate::vocabulary::command::{Effect, effect};

/// What a lease has left behind on its connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Residue {
    /// Keys are being watched.
    pub(super) watching: bool,
    /// A transaction is open.
    pub(super) queueing: bool,
    /// Database, user, protocol, name or tracking may have changed.
    pub(super) session: bool,
    /// Replies no longer match requests one to one, or the connection is broken.
    pub(super) poisoned: bool,
    /// The next command is to be answered for a slot that is on its way here.
    pub(super) asking: bool,
    /// A command was given up before its reply came.
    pub(super) unanswered: bool,
    /// The one given up blocks on the server.
    pub(super) blocked: bool,
}

impl Residue {
    pub(super) fn is_clean(self) -> bool {
        self == Self::default()
    }

    /// Nothing we could send makes it fit to be lent again.
    pub(super) fn is_beyond_reset(self) -> bool {
        self.poisoned || self.blocked
    }

    /// RESET is needed, and not only the outstanding replies.
    pub(super) fn needs_reset(self) -> bool {
        self.watching || self.queueing || self.session || self.asking
    }

    /// Notes that a command is on its way: until it is answered, it must be taken to have done what
    /// it does.
    pub(super) fn before(&mut self, cmd: &Cmd) {
        self.unanswered = true;
        match effect(cmd) {
            Effect::None | Effect::Unwatch | Effect::EndTransaction => {}
            Effect::Blocks => self.blocked = true,
            Effect::Watch => self.watching = true,
            Effect::Multi => self.queueing = true,
            Effect::Session => self.session = true,
            Effect::Asking => self.asking = true,
            Effect::Poison => self.poisoned = true,
        }
    }

    /// What there is once a command was answered, `failed` with an error, of what there was before it. Replies
    /// come in order, so whatever was given up before it has been answered too.
    #[must_use]
    pub(super) fn after(mut self, cmd: &Cmd, failed: bool) -> Self {
        self.unanswered = false;
        self.blocked = false;
        // Of the command before, and so over, except within a transaction, whose end is its.
        self.asking = false;
        match effect(cmd) {
            Effect::None | Effect::Blocks => {}
            // A node of a cluster that says where to go watches nothing.
            Effect::Watch | Effect::Multi if failed => {}
            Effect::Watch => self.watching = true,
            Effect::Unwatch => self.watching = false,
            Effect::Multi => self.queueing = true,
            // "EXEC without MULTI" is an error that keeps the watched keys.
            Effect::EndTransaction if self.queueing => {
                self.watching = false;
                self.queueing = false;
            }
            Effect::EndTransaction => {}
            Effect::Session => self.session = true,
            Effect::Asking => self.asking = true,
            Effect::Poison => self.poisoned = true,
        }
        self
    }

    /// The same of a pipeline. `failed`: whether the command at that place is known to have been answered with
    /// an error.
    #[must_use]
    pub(super) fn after_pipeline(
        mut self,
        pipeline: &Pipeline,
        failed: impl Fn(usize) -> bool,
    ) -> Self {
        for (at, cmd) in pipeline.cmd_iter().enumerate() {
            self = self.after(cmd, failed(at));
        }
        if pipeline.is_transaction() {
            // EXEC, which the driver adds, forgets the watched keys.
            self.watching = false;
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use redis::{cmd, pipe};

    use super::*;

    fn residue(commands: &[&str]) -> Residue {
        let mut residue = Residue::default();
        for line in commands {
            let mut words = line.split(' ');
            let mut cmd = cmd(words.next().unwrap());
            for word in words {
                cmd.arg(word);
            }
            residue = residue.after(&cmd, false);
        }
        residue
    }

    #[test]
    fn a_transaction_that_ends_leaves_nothing_behind() {
        assert!(residue(&["WATCH k", "MULTI", "SET k v", "exec"]).is_clean());
        assert!(residue(&["watch k", "UNWATCH"]).is_clean());
        assert!(residue(&["WATCH k", "MULTI", "DISCARD"]).is_clean());
        assert!(residue(&["WATCH k", "MULTI"]).needs_reset());
        assert!(residue(&["WATCH k", "EXEC"]).needs_reset(), "EXEC without MULTI keeps the keys");
    }

    #[test]
    fn session_changes_want_a_reset() {
        for command in ["SELECT 2", "AUTH x", "HELLO 2", "CLIENT SETNAME x", "client tracking on"] {
            let residue = residue(&[command]);
            assert!(residue.needs_reset() && !residue.is_beyond_reset(), "{command}");
        }
        assert!(residue(&["CLIENT ID", "CLIENT LIST", "GET k"]).is_clean());
    }

    #[test]
    fn what_breaks_the_framing_is_beyond_reset() {
        for command in [
            "SUBSCRIBE a b",
            "MONITOR",
            "CLIENT REPLY OFF",
            "client no-evict on",
            "SCRIPT DEBUG YES",
        ] {
            assert!(residue(&[command]).is_beyond_reset(), "{command}");
        }
    }

    #[test]
    fn what_was_given_up_is_taken_to_have_happened() {
        let mut residue = Residue::default();
        residue.before(cmd("SELECT").arg(1));
        assert!(residue.needs_reset() && residue.unanswered);
        residue.before(cmd("BLPOP").arg("k").arg(0));
        assert!(residue.is_beyond_reset());
        let mut residue = Residue { watching: true, ..Residue::default() };
        residue.before(&cmd("EXEC"));
        assert!(residue.watching, "it may not have run");
    }

    #[test]
    fn a_pipeline_is_the_sum_of_its_commands() {
        let mut pipeline = pipe();
        pipeline.cmd("WATCH").arg("k").cmd("MULTI").cmd("SET").arg("k").arg(1).cmd("EXEC");
        assert!(Residue::default().after_pipeline(&pipeline, |_| false).is_clean());
        let mut pipeline = pipe();
        pipeline.cmd("SELECT").arg(1).cmd("GET").arg("k");
        assert!(Residue::default().after_pipeline(&pipeline, |_| false).needs_reset());
    }

    #[test]
    fn what_was_answered_with_an_error_has_begun_nothing() {
        let clean = Residue::default();
        assert!(clean.after(cmd("WATCH").arg("k"), true).is_clean());
        assert!(clean.after(&cmd("MULTI"), true).is_clean());
        let watching = clean.after(cmd("WATCH").arg("k"), false);
        assert!(watching.after(cmd("WATCH").arg("other"), true).watching, "the first one holds");
        let mut pipeline = pipe();
        pipeline.cmd("ASKING").cmd("WATCH").arg("k").cmd("GET").arg("k");
        assert!(clean.after_pipeline(&pipeline, |at| at == 1).is_clean());
        assert!(clean.after_pipeline(&pipeline, |at| at == 2).watching);
    }

    #[test]
    fn an_atomic_pipeline_forgets_the_watched_keys() {
        let residue = Residue { watching: true, ..Residue::default() };
        let mut pipeline = pipe();
        pipeline.atomic().cmd("SET").arg("k").arg(1);
        assert!(residue.after_pipeline(&pipeline, |_| false).is_clean());
    }
}
