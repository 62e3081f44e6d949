//! A Rust file taken apart just enough for the rules: code without comments and literals, the string literals, and the part that
//! is inline tests. Not a parser: it knows where a literal ends, and counts braces.

/// A Rust file, split by what the rules look at. `code` has the same lines as the file.
pub struct Source {
    /// The file with comments, the contents of literals and inline test modules blanked out.
    pub code: String,
    /// String literals outside inline tests, with the line (from 1) on which each starts.
    pub strings: Vec<(usize, String)>,
    /// Lines outside inline tests.
    pub line_count: usize,
}

impl Source {
    /// Takes `text` apart.
    pub fn new(text: &str) -> Self {
        let (mut code, mut strings) = blank_literals(text);
        let mut line_count = text.lines().count();
        while let Some((start, end)) = test_module(&code) {
            let lines = line_of(&code, start)..=line_of(&code, end);
            strings.retain(|(line, _)| !lines.contains(line));
            line_count -= lines.count();
            let blank: String = code[start..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
            code.replace_range(start..end, &blank);
        }
        Self { code, strings, line_count }
    }

    /// Functions with a body: name, line on which `fn` stands, number of lines.
    pub fn functions(&self) -> Vec<(String, usize, usize)> {
        let mut found = Vec::new();
        for (at, _) in self.code.match_indices("fn ") {
            let part_of_a_word = self.code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
            let name: String = self.code[at + 3..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if part_of_a_word || name.is_empty() {
                continue;
            }
            if let Some(end) = body_start(&self.code, at).and_then(|open| closing_brace(&self.code, open)) {
                let first = line_of(&self.code, at);
                found.push((name, first, line_of(&self.code, end) - first + 1));
            }
        }
        found
    }

    /// The lines on which `path` (like `std::fs` or `tokio`) is used as a path's beginning or imported.
    pub fn uses(&self, path: &str) -> Vec<usize> {
        let mut lines = Vec::new();
        for (at, _) in self.code.match_indices(path) {
            let before = self.code[..at].chars().next_back();
            let rest = &self.code[at + path.len()..];
            let whole = !before.is_some_and(|c| c.is_alphanumeric() || "_:.".contains(c));
            let imported = self.code[..at].ends_with("use ") && rest.starts_with([';', ' ']);
            if whole && (rest.starts_with("::") || rest.starts_with('!') || imported) {
                lines.push(line_of(&self.code, at));
            }
        }
        lines
    }

    /// The lines that contain `fragment` of code.
    pub fn mentions(&self, fragment: &str) -> Vec<usize> {
        self.code.match_indices(fragment).map(|(at, _)| line_of(&self.code, at)).collect()
    }
}

fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

/// Blanks comments and literals, byte for byte, so that offsets and lines stay.
fn blank_literals(text: &str) -> (String, Vec<(usize, String)>) {
    let bytes = text.as_bytes();
    let mut code = Vec::with_capacity(bytes.len());
    let mut strings = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let end = match literal_end(text, at) {
            Some((end, is_string)) => {
                if is_string {
                    strings.push((line_of(text, at), text[at..end].to_owned()));
                }
                end
            }
            None => {
                code.push(if bytes[at].is_ascii() { bytes[at] } else { b'x' });
                at += 1;
                continue;
            }
        };
        code.extend(bytes[at..end].iter().map(|byte| if *byte == b'\n' { b'\n' } else { b' ' }));
        at = end;
    }
    (String::from_utf8(code).expect("only ASCII was put in"), strings)
}

/// Where the comment or literal that starts at `at` ends, and whether it is a string.
fn literal_end(text: &str, at: usize) -> Option<(usize, bool)> {
    let rest = &text[at..];
    let inside_word = text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
    if rest.starts_with("//") {
        return Some((at + rest.find('\n').unwrap_or(rest.len()), false));
    }
    if rest.starts_with("/*") {
        return Some((at + block_comment_length(rest), false));
    }
    let prefix = if inside_word {
        ""
    } else {
        ["br", "cr", "r", "b", "c"].into_iter().find(|p| opens_string(rest, p)).unwrap_or("")
    };
    let body = &rest[prefix.len()..];
    if prefix.ends_with('r') {
        let hashes = body.len() - body.trim_start_matches('#').len();
        let closing = format!("\"{}", "#".repeat(hashes));
        let open = prefix.len() + hashes + 1;
        return Some((at + rest[open..].find(&closing).map_or(rest.len(), |i| open + i + closing.len()), true));
    }
    if let Some(quoted) = body.strip_prefix('"') {
        return Some((at + prefix.len() + 1 + quoted_length(quoted, '"'), true));
    }
    let is_char = body.starts_with("'\\") || (body.starts_with('\'') && body.chars().nth(2) == Some('\''));
    is_char.then(|| (at + prefix.len() + 1 + quoted_length(&body[1..], '\''), false))
}

fn opens_string(rest: &str, prefix: &str) -> bool {
    let Some(body) = rest.strip_prefix(prefix) else { return false };
    if prefix.ends_with('r') { body.trim_start_matches('#').starts_with('"') } else { body.starts_with('"') }
}

/// Bytes up to and with the closing quote.
fn quoted_length(body: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in body.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    body.len()
}

/// Block comments nest.
fn block_comment_length(rest: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        let here = &rest.as_bytes()[at..];
        if here.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if here.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

/// The span of the first `#[cfg(test)] mod name { .. }`.
fn test_module(code: &str) -> Option<(usize, usize)> {
    code.match_indices("#[cfg(test)]").find_map(|(at, attribute)| {
        let item = code[at + attribute.len()..].trim_start();
        let opens = item.starts_with("mod ") && item.find('{') < item.find(';').or(Some(usize::MAX));
        let open = at + code[at..].find('{')?;
        opens.then(|| closing_brace(code, open)).flatten().map(|close| (at, close + 1))
    })
}

/// The `{` that opens the body of the function at `at`; none if it has none.
fn body_start(code: &str, at: usize) -> Option<usize> {
    let mut depth = 0;
    for (offset, c) in code[at..].char_indices() {
        match c {
            '(' | '[' => depth += 1,
            ')' | ']' => depth -= 1,
            ';' if depth == 0 => return None,
            '{' if depth == 0 => return Some(at + offset),
            _ => {}
        }
    }
    None
}

fn closing_brace(code: &str, open: usize) -> Option<usize> {
    let mut depth = 0;
    for (offset, c) in code[open..].char_indices() {
        match c {
            '{' => depth += 1,
            '}' => {
                depth -= 1;
                if depth == 0 {
                    return Some(open + offset);
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_no_code() {
        let source = Source::new(
            "// std::fs::a\n/* x /* tokio::b */ */ let a = \"sqlx::\\\" {\"; let c = '{'; let r = r#\"poem::\"}\"#;\nfn f<'a>(x: &'a str) {}\n",
        );
        for word in ["std::fs", "tokio", "sqlx", "poem"] {
            assert_eq!(source.uses(word), Vec::<usize>::new(), "{word}");
        }
        assert_eq!(source.strings.len(), 2);
        assert_eq!(source.functions(), vec![("f".to_owned(), 3, 1)]);
    }

    #[test]
    fn uses_are_found_as_paths_and_imports_only() {
        let source = Source::new(
            "use tokio;\nuse sqlx::PgPool;\nlet a = my::tokio::x;\nlet tokio_like = tokio::spawn(f);\nsqlx!(1);\n",
        );
        assert_eq!(source.uses("tokio"), vec![1, 4]);
        assert_eq!(source.uses("sqlx"), vec![2, 5]);
    }

    #[test]
    fn inline_tests_count_for_nothing() {
        let source =
            Source::new("fn a() {\n}\n#[cfg(test)]\nmod tests {\n    fn b() { let s = \"}\"; }\n}\nfn c() {\n\n}\n");
        assert_eq!(source.functions(), vec![("a".to_owned(), 1, 2), ("c".to_owned(), 7, 3)]);
        assert_eq!(source.line_count, 5);
        assert!(source.strings.is_empty());
    }
}
