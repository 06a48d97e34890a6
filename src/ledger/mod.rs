//! The ledger: who may hold a connection, who is next, and whether one more is wanted.
//!
//! A pure state machine over counts. It never sees a connection: it says that *one* may be taken
//! from the store, and the store gives whichever it has. `W` is what a waiter is woken with.
//!
//! Invariants, after every call:
//! - `idle` is the number of live connections in the store.
//! - If `idle > 0`, no queued waiter is eligible (once [`Ledger::next_turn`] has been drained).
//! - `live + dialing` counts sockets, from the first SYN until they are closed.

use std::collections::{BTreeMap, HashMap};

use self::limit::Limit;
use self::replacing::Replacing;
use crate::Endpoint;
use crate::policy::{Budget, Budgets};
use crate::vocabulary::MAX_ENDPOINTS;

#[derive(Debug)]
pub(crate) struct Ledger<W> {
    limit: Limit,
    live: usize,
    dialing: usize,
    /// Of those the dials that are for one waiter each.
    dialing_fresh: usize,
    idle: usize,
    /// Leases out, over all endpoints.
    in_use: usize,
    accounts: Vec<Account<W>>,
    by_name: HashMap<Endpoint, AccountId>,
    /// The account that no caller's name leads to.
    internal: Option<AccountId>,
    default_budget: Budget,
    /// Over all accounts, what is reserved and not in use.
    unused_reserve: usize,
    queue_limit: usize,
    queued: usize,
    next_ticket: Ticket,
    /// Somebody was turned away for want of a connection since the last dial.
    dial_requested: bool,
    /// Idle connections that are being closed to make room for somebody's own.
    making_room: usize,
    /// One was, and no dial has ended since.
    room_made: bool,
    /// The slot of one that was closed so went to somebody else, since the server is full.
    room_lost: bool,
    /// Connections above the limit that are being closed.
    shedding: usize,
    /// Callers so far, and those served.
    arrivals: u64,
    acquired: u64,
    /// The most that were in use or waited for since the last look.
    peak: usize,
    /// How many connections somebody wants live, each until its removal.
    goals: Vec<usize>,
    /// So many are to be open although nobody waits for them.
    kept_up: usize,
    replacing: Replacing,
    closed: bool,
}

/// One endpoint's part of the ledger.
#[derive(Debug)]
struct Account<W> {
    name: Endpoint,
    budget: Budget,
    /// The budget's reserve, or its share of it while the limit is below the sum of all reserves.
    reserve: usize,
    in_use: usize,
    /// Connections granted so far.
    acquired: u64,
    /// In order of arrival. A waiter who comes back keeps its ticket and with it its place.
    queue: BTreeMap<Ticket, W>,
    /// Those who want a socket of their own, which no idle connection can be for them.
    fresh: BTreeMap<Ticket, W>,
}

/// An endpoint's place in the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AccountId(pub(crate) usize);

/// A waiter's place in the queue.
pub(crate) type Ticket = u64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Take one from the store.
    Granted,
    /// The endpoint holds its `max`.
    BudgetExhausted,
    /// No connection is free, or the free ones are kept for others.
    NoneFree,
}

/// What an idle connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// The waiter that [`Ledger::next_grant`] gives.
    Grant,
    /// To be closed, so that who waits for a connection of its own can have one dialed.
    MakeRoom,
}

/// A waiter's turn has come.
#[derive(Debug)]
pub(crate) struct Grant<W> {
    pub(crate) account: AccountId,
    pub(crate) waiter: W,
}

/// A dial is for this waiter, and nobody else.
#[derive(Debug)]
pub(crate) struct Fresh<W> {
    pub(crate) account: AccountId,
    pub(crate) ticket: Ticket,
    pub(crate) waiter: W,
}

/// Why a connection was closed, as far as that is the ledger's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closed {
    /// There were more than the limit; see [`Ledger::shed`].
    Shed,
    /// Somebody waits for a connection of its own; see [`Turn::MakeRoom`].
    ForRoom,
    Otherwise,
}

/// What the ledger says of one endpoint.
#[derive(Clone, Debug)]
pub(crate) struct AccountStatus {
    pub(crate) name: Endpoint,
    pub(crate) max: usize,
    pub(crate) reserve: usize,
    pub(crate) in_use: usize,
    pub(crate) waiting: usize,
    pub(crate) acquired: u64,
}

/// The ledger's counts at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) limit: usize,
    pub(crate) live: usize,
    pub(crate) dialing: usize,
    pub(crate) idle: usize,
    pub(crate) in_use: usize,
    pub(crate) waiting: usize,
}

impl<W> Ledger<W> {
    pub(crate) fn new(max_connections: usize, queue_limit: usize, budgets: &Budgets) -> Self {
        let mut ledger = Self {
            limit: Limit::new(max_connections),
            shedding: 0,
            arrivals: 0,
            acquired: 0,
            peak: 0,
            live: 0,
            dialing: 0,
            dialing_fresh: 0,
            idle: 0,
            in_use: 0,
            accounts: Vec::new(),
            by_name: HashMap::new(),
            internal: None,
            default_budget: budgets.default.unwrap_or(Budget::max(max_connections)),
            unused_reserve: 0,
            queue_limit,
            queued: 0,
            next_ticket: 0,
            dial_requested: false,
            making_room: 0,
            room_made: false,
            room_lost: false,
            goals: Vec::new(),
            kept_up: 0,
            replacing: Replacing::default(),
            closed: false,
        };
        for (name, budget) in &budgets.named {
            ledger.open_account(name.clone(), *budget);
        }
        ledger.share_reserves();
        ledger
    }

    fn open_account(&mut self, name: Endpoint, budget: Budget) -> AccountId {
        let id = AccountId(self.accounts.len());
        self.by_name.insert(name.clone(), id);
        self.accounts.push(Account {
            name,
            budget,
            reserve: 0,
            in_use: 0,
            acquired: 0,
            queue: BTreeMap::new(),
            fresh: BTreeMap::new(),
        });
        id
    }

    /// The endpoint's account, opened on first use with the default budget.
    pub(crate) fn account(&mut self, endpoint: &Endpoint) -> AccountId {
        // A look at the first few costs less than hashing the name, and most pools have few.
        let first = self.accounts.iter().take(8).position(|account| account.name == *endpoint);
        let known = first.map(AccountId).or_else(|| self.by_name.get(endpoint).copied());
        if let Some(id) = known.filter(|id| Some(*id) != self.internal) {
            return id;
        }
        // One place is kept for `other` itself.
        let room = self.accounts.len() + 1 < MAX_ENDPOINTS;
        if room && endpoint.problem().is_none() {
            return self.open_account(endpoint.clone(), self.default_budget);
        }
        match self.by_name.get(&Endpoint::OTHER) {
            Some(other) => *other,
            None => self.open_account(Endpoint::OTHER, self.default_budget),
        }
    }

    pub(crate) fn account_name(&self, account: AccountId) -> &Endpoint {
        &self.accounts[account.0].name
    }

    /// The account's budget.
    pub(crate) fn account_budget(&self, account: AccountId) -> Budget {
        self.accounts[account.0].budget
    }

    /// The account of the pool's own connections, opened with its budget on first use. Callers who take
    /// its name count as `other`.
    pub(crate) fn internal_account(&mut self, name: &Endpoint, budget: Budget) -> AccountId {
        if let Some(account) = self.internal {
            return account;
        }
        let account = self.open_account(name.clone(), budget);
        self.internal = Some(account);
        self.share_reserves();
        account
    }

    /// The account's `max`, in connections.
    pub(crate) fn account_max(&self, account: AccountId) -> usize {
        self.accounts[account.0].budget.max_connections()
    }

    /// Takes a connection for the account if one is free for it.
    pub(crate) fn acquire(&mut self, account: AccountId) -> Admission {
        self.arrivals += 1;
        if self.idle > 0 && self.is_eligible(account, self.limit.in_force()) {
            self.idle -= 1;
            self.take(account);
            Admission::Granted
        } else if self.is_exhausted(account) {
            Admission::BudgetExhausted
        } else {
            Admission::NoneFree
        }
    }

    /// True while the account holds its `max`, and that is what stands in its way: an account that
    /// may have the whole pool waits for connections, not for its budget.
    pub(crate) fn is_exhausted(&self, account: AccountId) -> bool {
        let max = self.account_max(account);
        max < self.limit.in_force() && self.accounts[account.0].in_use >= max
    }

    /// True while the account holds its `max`.
    pub(crate) fn holds_its_max(&self, account: AccountId) -> bool {
        self.accounts[account.0].in_use >= self.account_max(account)
    }

    /// Queues a waiter behind the others of its account, or gives it back if the queue is full.
    pub(crate) fn enqueue(&mut self, account: AccountId, waiter: W) -> Result<Ticket, W> {
        if self.queued >= self.queue_limit {
            return Err(waiter);
        }
        let ticket = self.new_ticket();
        self.queue(account, ticket, waiter);
        Ok(ticket)
    }

    /// What to do with an idle connection, if somebody waits for it. Call until `None` after every
    /// change.
    pub(crate) fn next_turn(&self) -> Option<Turn> {
        if self.idle == 0 || self.queued == 0 {
            return None;
        }
        let first = |id: AccountId| self.accounts[id.0].queue.first_key_value().map(|(t, _)| *t);
        let granted = self.longest_waiting(self.limit.in_force()).and_then(first);
        match (granted, self.room_due()) {
            (Some(granted), Some(room)) if room < granted => Some(Turn::MakeRoom),
            (Some(_), _) => Some(Turn::Grant),
            (None, Some(_)) => Some(Turn::MakeRoom),
            (None, None) => None,
        }
    }

    /// Takes the next waiter out of the queue, whose [turn](Turn::Grant) has come.
    pub(crate) fn next_grant(&mut self) -> Option<Grant<W>> {
        let account = self.longest_waiting(self.limit.in_force()).filter(|_| self.idle > 0)?;
        let (_, waiter) = self.accounts[account.0].queue.pop_first()?;
        self.queued -= 1;
        self.idle -= 1;
        self.take(account);
        Some(Grant { account, waiter })
    }

    /// The account whose first waiter has waited longest, among those that may have a connection:
    /// an endpoint at its `max` never blocks another behind it.
    fn longest_waiting(&self, limit: usize) -> Option<AccountId> {
        if self.queued == 0 {
            return None;
        }
        let first = |id: &AccountId| self.accounts[id.0].queue.first_key_value().map(|(t, _)| *t);
        (0..self.accounts.len())
            .map(AccountId)
            .filter(|id| !self.accounts[id.0].queue.is_empty() && self.is_eligible(*id, limit))
            .min_by_key(first)
    }

    /// Under its `max`, and either within its reserve or leaving the others' reserves alone.
    fn is_eligible(&self, account: AccountId, limit: usize) -> bool {
        let Account { budget, reserve, in_use, .. } = &self.accounts[account.0];
        *in_use < budget.max_connections()
            && (*in_use < *reserve || self.in_use.saturating_add(self.unused_reserve) < limit)
    }

    fn take(&mut self, account: AccountId) {
        let account = &mut self.accounts[account.0];
        if account.in_use < account.reserve {
            subtract(&mut self.unused_reserve, 1);
        }
        account.in_use += 1;
        account.acquired += 1;
        self.acquired += 1;
        self.in_use += 1;
        self.peak = self.peak.max(self.in_use + self.queued);
    }

    /// A lease, or an unused grant, is over. `to_store`: its connection is back in the store;
    /// otherwise it is dead, or away being reset.
    pub(crate) fn released(&mut self, account: AccountId, to_store: bool) {
        let account = &mut self.accounts[account.0];
        subtract(&mut account.in_use, 1);
        subtract(&mut self.in_use, 1);
        if account.in_use < account.reserve {
            self.unused_reserve += 1;
        }
        if to_store {
            self.idle += 1;
        }
    }

    fn new_ticket(&mut self) -> Ticket {
        self.next_ticket += 1;
        self.next_ticket
    }

    /// Puts a waiter into the queue at its place. Who comes back to it is never refused.
    pub(crate) fn queue(&mut self, account: AccountId, ticket: Ticket, waiter: W) {
        self.queued += 1;
        self.peak = self.peak.max(self.in_use + self.queued);
        self.accounts[account.0].queue.insert(ticket, waiter);
    }

    /// A waiter left; `None` if it was not queued any more.
    pub(crate) fn cancelled(&mut self, account: AccountId, ticket: Ticket) -> Option<W> {
        let Account { queue, fresh, .. } = &mut self.accounts[account.0];
        let waiter = queue.remove(&ticket).or_else(|| fresh.remove(&ticket));
        self.queued -= usize::from(waiter.is_some());
        waiter
    }

    /// Takes every waiter out of the queue, to be refused.
    pub(crate) fn drain_queue(&mut self) -> Vec<(AccountId, W)> {
        self.queued = 0;
        let accounts = (0..self.accounts.len()).map(AccountId);
        accounts
            .flat_map(|id| {
                let account = &mut self.accounts[id.0];
                let queue = std::mem::take(&mut account.queue).into_values();
                let fresh = std::mem::take(&mut account.fresh).into_values();
                queue.chain(fresh).map(move |waiter| (id, waiter)).collect::<Vec<_>>()
            })
            .collect()
    }

    /// A connection's socket is closed.
    pub(crate) fn died(&mut self, why: Closed) {
        subtract(&mut self.live, 1);
        match why {
            Closed::Shed => subtract(&mut self.shedding, 1),
            Closed::ForRoom => {
                subtract(&mut self.making_room, 1);
                self.room_made = true;
            }
            Closed::Otherwise => {}
        }
    }

    /// `count` connections were taken out of the store without a grant (to be closed or checked).
    pub(crate) fn withdrawn(&mut self, count: usize) {
        subtract(&mut self.idle, count);
    }

    /// One was, and is being closed to make room.
    pub(crate) fn makes_room(&mut self) {
        self.withdrawn(1);
        self.making_room += 1;
    }

    /// A new or withdrawn connection is in the store.
    pub(crate) fn restored(&mut self) {
        self.idle += 1;
    }

    /// Gives every account its reserve, or its share where the limit has no room for all. A lowered
    /// limit always leaves one connection that is nobody's: a server that is full for long must not
    /// starve whoever has no reserve.
    fn share_reserves(&mut self) {
        let sum: usize = self.accounts.iter().map(|account| account.budget.reserved()).sum();
        let limit = self.limit.in_force();
        let room = limit - usize::from(self.limit.is_lowered() && limit > 0);
        for account in &mut self.accounts {
            let reserve = account.budget.reserved();
            account.reserve = if sum > room { reserve * room / sum } else { reserve };
        }
        let unused = |account: &Account<W>| account.reserve.saturating_sub(account.in_use);
        self.unused_reserve = self.accounts.iter().map(unused).sum();
    }

    /// No more grants and dials.
    pub(crate) fn close(&mut self) {
        self.closed = true;
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }
}

/// A count that went below zero would let everybody in.
fn subtract(count: &mut usize, by: usize) {
    debug_assert!(*count >= by, "{count} - {by}: counted twice, or never");
    *count = count.saturating_sub(by);
}

mod beyond;
mod counts;
mod dials;
mod limit;
mod replacing;
#[cfg(test)]
mod tests;
