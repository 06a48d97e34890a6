//! Who uses whom, read from the sources.

use std::collections::{BTreeMap, BTreeSet};

use crate::tokens::{Token, is_word, nesting, tokens};

/// The library's modules. Each is named by its path from the crate root, which is itself "".
#[derive(Default)]
pub(crate) struct Tree {
    modules: BTreeMap<String, Module>,
    /// Those that are files.
    pub(crate) files: BTreeSet<String>,
    /// The modules that `lib.rs` declares, in its order.
    pub(crate) declared: Vec<String>,
}

#[derive(Default)]
struct Module {
    /// Every path that stands in it.
    named: Vec<Named>,
    /// The names that its `use` lines bind, and what they stand for.
    bound: BTreeMap<String, Vec<String>>,
}

struct Named {
    path: Vec<String>,
    file: String,
    line: usize,
}

impl Tree {
    /// Of files by their paths from `src/`. The binary is a crate of its own, and tests do not count.
    pub(crate) fn of(sources: &[(String, String)]) -> Self {
        let mut tree = Self::default();
        for (path, text) in sources {
            let parts: Vec<&str> = path.trim_end_matches(".rs").split('/').collect();
            if matches!(parts[..], ["bin", ..] | [.., "tests" | "interleavings"]) {
                continue;
            }
            let module = match parts[..] {
                ["lib"] => String::new(),
                [ref folder @ .., "mod"] => folder.join("::"),
                _ => parts.join("::"),
            };
            if !module.is_empty() {
                tree.files.insert(module.clone());
            }
            Reader { tokens: tokens(text), at: 0, file: path, tree: &mut tree }.module(&module);
        }
        tree
    }

    /// The arrows that point up: whatever names a module that stands later in `order`.
    pub(crate) fn upward(&self, order: &[String]) -> Vec<String> {
        let place = |module: &str| {
            let mut own_and_above = ancestors(module);
            own_and_above.find_map(|m| order.iter().position(|listed| listed == m))
        };
        let mut found = Vec::new();
        for (module, Module { named, .. }) in &self.modules {
            let Some(from) = place(module) else { continue };
            for Named { path, file, line } in named {
                let mut owners = Vec::new();
                self.owners(module, module, path, &mut owners);
                if let Some(to) = owners.iter().filter_map(|m| place(m)).find(|to| *to > from) {
                    found.push(format!(
                        "src/{file}:{line}: {} points up: {} is number {} and {} number {}",
                        path.join("::"),
                        order[from],
                        from + 1,
                        order[to],
                        to + 1
                    ));
                }
            }
        }
        found
    }

    /// The modules that `path`, read in the module `at`, takes its name from: the one that defines it,
    /// and those that re-export it on the way. A re-export by a module around `user` is left out: it
    /// is a shorthand within that module, as is the crate root's. Nothing for another crate's names.
    fn owners(&self, user: &str, at: &str, path: &[String], owners: &mut Vec<String>) {
        let (mut at, mut rest) = match path[0].as_str() {
            "crate" => (String::new(), &path[1..]),
            "self" => (at.to_owned(), &path[1..]),
            "super" => (at.to_owned(), path),
            first if self.modules.contains_key(&join(at, first)) => (at.to_owned(), path),
            _ => return,
        };
        while let [name, after @ ..] = rest {
            let child = join(&at, name);
            if name == "super" {
                at = parent(&at).to_owned();
            } else if self.modules.contains_key(&child) {
                at = child;
            } else if let Some(bound) = self.modules.get(&at).and_then(|m| m.bound.get(name)) {
                if !ancestors(user).any(|m| m == at) {
                    owners.push(at.clone());
                }
                return self.owners(user, &at, &[bound, after].concat(), owners);
            } else {
                break;
            }
            rest = after;
        }
        owners.push(at);
    }
}

fn join(module: &str, name: &str) -> String {
    if module.is_empty() { name.to_owned() } else { format!("{module}::{name}") }
}

/// A module and those around it, the crate root last.
fn ancestors(module: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(module), |m| (!m.is_empty()).then(|| parent(m)))
}

fn parent(module: &str) -> &str {
    module.rsplit_once("::").map_or("", |(parent, _)| parent)
}

/// Reads the tokens of one file into the tree.
struct Reader<'a> {
    tokens: Vec<Token<'a>>,
    at: usize,
    file: &'a str,
    tree: &'a mut Tree,
}

impl<'a> Reader<'a> {
    /// To the closing brace of the module, or to the end of the file.
    fn module(&mut self, module: &str) {
        self.tree.modules.entry(module.to_owned()).or_default();
        let mut depth = 0;
        while self.at < self.tokens.len() {
            match self.ahead() {
                ["#", "[", "cfg", "(", "test", ")", ..]
                | ["#", "[", "expect", "(", "unused_imports", ..] => self.skip_item(),
                ["mod", name, "{", ..] => {
                    self.at += 3;
                    self.module(&join(module, name));
                }
                ["mod", name, ";", ..] if module.is_empty() => {
                    self.tree.declared.push(name.to_owned());
                    self.at += 3;
                }
                // `impl Trait + use<'a>` is no import.
                ["use", next, ..] if next != "<" => {
                    self.at += 1;
                    self.import(module, Vec::new());
                }
                // A visibility, `pub(in crate::doctor)`, names a module but uses nothing of it.
                ["(", "in", ..] => self.at += 3,
                ["::", ..] => self.at += 2,
                [_, "::", ..] => self.path(module),
                ["{", ..] => {
                    depth += 1;
                    self.at += 1;
                }
                ["}", ..] => {
                    self.at += 1;
                    if depth == 0 {
                        return;
                    }
                    depth -= 1;
                }
                _ => self.at += 1,
            }
        }
    }

    /// The next few tokens; "" after the last.
    fn ahead(&self) -> [&'a str; 6] {
        std::array::from_fn(|i| self.tokens.get(self.at + i).map_or("", |token| token.text))
    }

    /// To the end of what an attribute stands before: its last brace, or a semicolon.
    fn skip_item(&mut self) {
        let mut depth = 0;
        while let Some(token) = self.tokens.get(self.at) {
            self.at += 1;
            depth += nesting(token.text);
            if depth < 0 || depth == 0 && matches!(token.text, "}" | ";") {
                return;
            }
        }
    }

    /// A path in the code.
    fn path(&mut self, module: &str) {
        let line = self.tokens[self.at].line;
        let mut path = vec![self.ahead()[0].to_owned()];
        self.at += 1;
        while let ["::", name, ..] = self.ahead()
            && is_word(name)
        {
            path.push(name.to_owned());
            self.at += 2;
        }
        self.named(module, path, line, None);
    }

    /// One tree of a `use` line, under `path`.
    fn import(&mut self, module: &str, mut path: Vec<String>) {
        loop {
            let line = self.tokens[self.at].line;
            match self.ahead() {
                ["{", ..] => {
                    self.at += 1;
                    while self.ahead()[0] != "}" {
                        self.import(module, path.clone());
                        self.at += usize::from(self.ahead()[0] == ",");
                    }
                    self.at += 1;
                    return;
                }
                // `::redis` is another crate for certain, whatever our modules are called.
                ["::", ..] if path.is_empty() => path.push("::".to_owned()),
                ["::", ..] | ["self", "," | "}", ..] => {}
                ["as", name, ..] => {
                    self.at += 2;
                    return self.named(module, path, line, Some(name.to_owned()));
                }
                [name, ..] if is_word(name) || name == "*" => path.push(name.to_owned()),
                _ => {
                    let name = path.last().cloned();
                    return self.named(module, path, line, name);
                }
            }
            self.at += 1;
        }
    }

    fn named(&mut self, module: &str, path: Vec<String>, line: usize, bound: Option<String>) {
        let module = self.tree.modules.entry(module.to_owned()).or_default();
        module.bound.extend(bound.map(|name| (name, path.clone())));
        module.named.push(Named { path, file: self.file.to_owned(), line });
    }
}

/// The reader itself, on small crates of three modules: `low`, `mid` and `high`, in this order.
mod tests {
    use super::*;

    const ROOT: &str =
        "mod low;\nmod mid;\nmod high;\npub use high::Tall;\npub use low::parts::Part;";

    /// The arrows that point up in a crate where `mid/mod.rs` is `text`.
    fn arrows(text: &str) -> Vec<String> {
        arrows_in(&[("mid/mod.rs", text)])
    }

    fn arrows_in(files: &[(&str, &str)]) -> Vec<String> {
        let others = [
            ("lib.rs", ROOT),
            ("low/mod.rs", "pub mod parts;"),
            ("low/parts.rs", "pub struct Part;"),
            ("high/mod.rs", "pub mod attic;\npub use crate::low::parts::Part;\npub struct Tall;"),
            ("high/attic.rs", "pub fn climb() {}"),
        ];
        let owned = |(path, text): &(&str, &str)| ((*path).to_owned(), (*text).to_owned());
        let tree = Tree::of(&others.iter().chain(files).map(owned).collect::<Vec<_>>());
        tree.upward(&tree.declared)
    }

    #[test]
    fn an_arrow_up_is_told_with_its_line_and_both_places() {
        assert_eq!(
            arrows("use std::fmt;\n\nuse crate::high::Tall;"),
            ["src/mid/mod.rs:3: crate::high::Tall points up: mid is number 2 and high number 3"]
        );
    }

    #[test]
    fn every_form_of_naming_a_module_above_is_found() {
        for text in [
            "use crate::high::{self};",
            "use crate::high::*;",
            "use crate::high::Tall as Short;",
            "pub(crate) use crate::high::attic::climb;",
            "use super::high::Tall;",
            "use self::super::high::Tall;",
            "use crate::Tall;",
            "use crate::{low::parts::Part, Tall};",
            "use crate::{\n    low::parts::{self, Part},\n    high::{\n        attic::climb,\n    },\n};",
            "fn f() { crate::high::attic::climb() }",
            "fn f(tall: &mut super::Tall) {}",
            "fn f() { g::<crate::Tall>() }",
            "fn f() { use crate::Tall; }",
            "macro_rules! m { () => { $crate::high::attic::climb() } }",
            "mod inner { use super::super::high::Tall; }",
            "#[cfg(feature = \"x\")]\nuse crate::high::Tall;",
            "#[cfg(test)]\nuse crate::low::{parts};\nuse crate::Tall;",
            "#[cfg(test)]\nmod tests { fn f() { {} } }\nuse crate::Tall;",
            "const QUOTE: char = '\"';\nuse crate::Tall;\nconst OTHER: char = '\\'';",
        ] {
            assert_eq!(arrows(text).len(), 1, "{text}");
        }
    }

    #[test]
    fn each_name_of_a_group_is_looked_up_for_itself() {
        assert_eq!(arrows("use crate::{high::{Tall, attic::{climb}}, low, Tall as T};").len(), 3);
    }

    #[test]
    fn what_points_down_or_to_another_crate_is_no_arrow_up() {
        for text in [
            "use crate::Part;",
            "use crate::{Part, low::parts};",
            "use super::low::parts::Part;",
            "use high::Tall;",
            "use ::high::Tall;",
            "use std::high::Tall;",
            "fn f() { other::crate_high::attic::climb(); high::attic::climb() }",
            "impl<'a> Iterator for I<'a> { fn f() -> impl Fn() + use<'a> { || () } }",
            "pub(in crate::high) struct S;",
        ] {
            assert_eq!(arrows(text), [""; 0], "{text}");
        }
    }

    #[test]
    fn comments_strings_tests_and_imports_for_the_docs_do_not_count() {
        for text in [
            "// use crate::Tall;\n/// [`Tall`](crate::Tall)\n/* /* */ use crate::Tall; */",
            "const A: &str = \"\\\"use crate::Tall;\";\nconst B: &str = r#\"\"use crate::Tall;\"#;",
            "#[cfg(test)]\nmod tests {\n    use crate::Tall;\n    fn f() { crate::high::attic::climb() }\n}",
            "#[cfg(test)]\nuse crate::{Tall};",
            "#[expect(unused_imports, reason = \"for the docs\")]\nuse crate::high::Tall;",
        ] {
            assert_eq!(arrows(text), [""; 0], "{text}");
        }
        assert_eq!(arrows_in(&[("mid/tests.rs", "use crate::Tall;")]), [""; 0]);
        assert_eq!(arrows_in(&[("bin/tool/main.rs", "use crate::high::Tall;")]), [""; 0]);
    }

    #[test]
    fn a_name_from_below_that_a_module_above_re_exports_is_an_arrow_up() {
        assert_eq!(arrows("use crate::high::Part;").len(), 1);
    }

    #[test]
    fn a_name_is_followed_through_the_modules_around_its_user() {
        let mid =
            "mod inner;\nuse crate::{Part, Tall as T};\nmod own { pub use super::T as Again; }";
        let inner = "use super::Part;\nuse super::own::Again;";
        let found = arrows_in(&[("mid/mod.rs", mid), ("mid/inner.rs", inner)]);
        let lines: Vec<&str> = found.iter().map(|told| told.split(": ").next().unwrap()).collect();
        assert_eq!(lines, ["src/mid/mod.rs:2", "src/mid/inner.rs:2", "src/mid/mod.rs:3"]);
    }

    #[test]
    fn children_are_named_without_a_prefix() {
        let order = ["low", "high::attic", "high", "low::parts"].map(str::to_owned);
        let files = [
            ("low/mod.rs", "mod parts;\nuse parts::Part;\nfn f() { parts::g() }"),
            ("low/parts.rs", "pub struct Part;"),
            ("high/mod.rs", "mod attic;\npub use attic::climb;"),
            ("high/attic.rs", "use super::Tall;"),
        ];
        let tree = Tree::of(&files.map(|(path, text)| (path.to_owned(), text.to_owned())));
        let found = tree.upward(&order);
        let lines: Vec<&str> = found.iter().map(|told| told.split(": ").next().unwrap()).collect();
        assert_eq!(lines, ["src/high/attic.rs:1", "src/low/mod.rs:2", "src/low/mod.rs:3"]);
    }
}
