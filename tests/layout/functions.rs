//! How long functions are.

use crate::tokens::{Token, is_word, nesting, tokens};

/// Lines of code a function's body may have.
const LONGEST: usize = 60;

/// The functions of a file that are longer than [`LONGEST`], without those that say why. Blank lines
/// and comments do not count.
pub(crate) fn long_functions(path: &str, text: &str) -> Vec<String> {
    let tokens = tokens(text);
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let mut found = Vec::new();
    for (i, pair) in tokens.windows(2).enumerate() {
        let [Token { text: "fn", line }, Token { text: name, .. }] = pair else { continue };
        let length = body(&tokens[i + 1..]);
        if !is_word(name) || length <= LONGEST {
            continue;
        }
        let mut above = lines[..line - 1].iter().rev().take_while(|line| line.starts_with("//"));
        if !above.any(|line| line.starts_with("// Long because")) {
            found.push(format!("src/{path}:{line}: {name} has {length} lines of code"));
        }
    }
    found
}

/// Lines of code between the braces of a function's body, given the tokens from its name on.
fn body(tokens: &[Token<'_>]) -> usize {
    let mut depth = 0;
    // Of the body's tokens, its braces among them.
    let mut lines = Vec::new();
    for Token { text, line } in tokens {
        match *text {
            ";" if depth == 0 => return 0,
            "{" if depth == 0 => lines.push(*line),
            _ if !lines.is_empty() => lines.push(*line),
            _ => {}
        }
        depth += nesting(text);
        if depth == 0 && !lines.is_empty() {
            break;
        }
    }
    lines.dedup();
    lines.len().saturating_sub(2)
}

mod tests {
    use super::*;

    fn function(head: &str, lines: usize) -> String {
        let body = "    call();\n\n    // A comment.\n".repeat(lines);
        format!("{head}\nfn f(x: [u8; 2]) -> [u8; 2] {{\n{body}}}\n")
    }

    #[test]
    fn a_long_function_is_told_unless_it_says_why() {
        let told = |text: &str| long_functions("a.rs", text);
        assert_eq!(told(&function("", LONGEST)), [""; 0]);
        assert_eq!(told(&function("", LONGEST + 1)), ["src/a.rs:2: f has 61 lines of code"]);
        for head in ["// Long because it is a table.", "// Long because it is\n// a table."] {
            assert_eq!(told(&function(head, LONGEST + 1)), [""; 0]);
        }
        assert_eq!(told(&function("// Long because of that.\n", LONGEST + 1)).len(), 1);
    }

    #[test]
    fn every_line_of_a_string_is_code() {
        let text = format!("fn f() {{\n    \"{}\"\n}}", "\n".repeat(LONGEST));
        assert_eq!(long_functions("a.rs", &text), ["src/a.rs:1: f has 61 lines of code"]);
    }

    #[test]
    fn a_declaration_without_a_body_has_no_length() {
        let text =
            format!("trait T {{\n    fn f(&self);\n    {}\n}}", "const A: u8;\n".repeat(LONGEST));
        assert_eq!(long_functions("a.rs", &text), [""; 0]);
    }
}
