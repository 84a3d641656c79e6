//! Reads Rust as far as the house rules need it: code without comments and
//! strings, and the names in it.

/// The names that follow a prefix: one, or each one of a `{…}` on the same line.
pub(crate) fn named_after(line: &str, prefix: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut rest = line;
    while let Some(at) = rest.find(prefix) {
        let is_whole = !rest[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
        rest = &rest[at + prefix.len()..];
        if !is_whole {
            continue;
        }
        let list = rest.strip_prefix('{').map(|list| list.split('}').next().unwrap_or(list));
        for item in list.unwrap_or(rest).split(',') {
            let item = item.trim();
            let end = item.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(item.len());
            if end > 0 {
                names.push(item[..end].to_owned());
            }
            if list.is_none() {
                break;
            }
        }
    }
    names
}

/// The paths that `use` declarations import, each as its segments.
pub(crate) fn imports(code: &str) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    for statement in code.split(';') {
        let Some(at) = statement.rfind("use ") else { continue };
        let is_whole = !statement[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let tree: String = statement[at + 4..].split_whitespace().collect::<Vec<_>>().join(" ");
        if is_whole && !tree.contains(['=', '(']) {
            expand(&tree, &[], &mut paths);
        }
    }
    paths
}

/// Adds the paths of a tree such as `a::{b, c::{self, D as E}}`.
fn expand(tree: &str, parents: &[String], paths: &mut Vec<Vec<String>>) {
    let tree = tree.trim();
    let prefix = tree.split('{').next().unwrap_or_default();
    let own = prefix.split(" as ").next().unwrap_or_default();
    let segments = own.split("::").map(str::trim).filter(|it| !it.is_empty()).map(str::to_owned);
    let path: Vec<String> = parents.iter().cloned().chain(segments).collect();
    let Some(list) = tree[prefix.len()..].strip_prefix('{') else {
        paths.push(path);
        return;
    };
    let list = list.trim_end().strip_suffix('}').unwrap_or(list);
    let (mut depth, mut start) = (0, 0);
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                expand(&list[start..at], &path, paths);
                start = at + 1;
            }
            _ => {}
        }
    }
    if !list[start..].trim().is_empty() {
        expand(&list[start..], &path, paths);
    }
}

pub(crate) fn names_crate(line: &str, name: &str) -> bool {
    let path = format!("{name}::");
    let has_path = line.match_indices(&path).any(|(at, _)| {
        !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':' || c == '.')
    });
    has_path || line.trim() == format!("use {name};")
}

/// The text with comments and the insides of string literals blanked.
pub(crate) fn blank(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for part in parts(text) {
        match part {
            Part::Code(c) => out.push(c),
            Part::Comment(skipped) | Part::Literal(skipped) => {
                out.extend(skipped.chars().filter(|c| *c == '\n'));
                out.push(' ');
            }
        }
    }
    out
}

/// The string literals that no `+` joins with another text, without their quotation marks. Escapes stay
/// as they are written.
pub(crate) fn literals(text: &str) -> Vec<&str> {
    let is_blank = |part: &Part<'_>| matches!(part, Part::Code(c) if c.is_whitespace());
    let mut parts = parts(text);
    parts.retain(|part| !is_blank(part));
    let is_plus =
        |at: Option<usize>| matches!(at.and_then(|at| parts.get(at)), Some(Part::Code('+')));
    let mut literals = Vec::new();
    for (at, part) in parts.iter().enumerate() {
        let Part::Literal(literal) = *part else { continue };
        let quoted = literal.trim_start_matches('r').trim_matches('#');
        let inside = quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        if !is_plus(at.checked_sub(1)) && !is_plus(at.checked_add(1)) {
            literals.extend(inside);
        }
    }
    literals
}

enum Part<'a> {
    Code(char),
    Comment(&'a str),
    /// A string, or a quotation mark as a character.
    Literal(&'a str),
}

fn parts(text: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let (mut rest, mut last) = (text, ' ');
    while let Some(c) = rest.chars().next() {
        let (is_literal, end) = if rest.starts_with("//") {
            (false, rest.find('\n').unwrap_or(rest.len()))
        } else if rest.starts_with("/*") {
            (false, rest.find("*/").map_or(rest.len(), |end| end + 2))
        } else if is_raw_string(rest) && !(last.is_alphanumeric() || last == '_') {
            let hashes = rest[1..].chars().take_while(|c| *c == '#').count();
            let end = format!("\"{}", "#".repeat(hashes));
            let body = hashes + 2;
            (true, rest[body..].find(&end).map_or(rest.len(), |at| body + at + end.len()))
        } else if c == '"' {
            (true, string_end(rest))
        } else if let Some(end) =
            ["'\"'", "'\\''", "'\\\"'"].iter().find(|text| rest.starts_with(**text))
        {
            (true, end.len())
        } else {
            parts.push(Part::Code(c));
            (rest, last) = (&rest[c.len_utf8()..], c);
            continue;
        };
        let (part, tail) = rest.split_at(end);
        parts.push(if is_literal { Part::Literal(part) } else { Part::Comment(part) });
        (rest, last) = (tail, ' ');
    }
    parts
}

fn is_raw_string(rest: &str) -> bool {
    rest.strip_prefix('r').is_some_and(|rest| rest.trim_start_matches('#').starts_with('"'))
}

fn string_end(rest: &str) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}
