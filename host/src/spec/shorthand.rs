//! The shorthand of `-c`: `':words | sort -u | ./plugin.wasm --x'`.
//!
//! Words and quoting are a shell's, read by a shell-grammar crate; what only a shell could do is refused with a hint.

use brush_parser::{
    ParserOptions, Token, uncached_tokenize_str,
    word::{WordPiece, WordPieceWithSource},
};

use super::{PipelineSpec, SpecError, StageSpec};

/// Reads the shorthand as a pipeline: stages separated by `|`, each a word that says what to run and its arguments.
///
/// # Errors
///
/// What is wrong, with the column where it stands.
pub fn shorthand(text: &str) -> Result<PipelineSpec, SpecError> {
    if text.contains('\0') {
        return Err(SpecError::new("-c", "the text holds a NUL character"));
    }
    // Line breaks around the pipeline, and behind a `|`, mean nothing, as in a shell.
    let text = text.trim_matches(['\n', '\r']);
    refuse_expansions(text)?;
    let tokens = uncached_tokenize_str(text, &Default::default()).map_err(|error| {
        SpecError::new("-c", error.to_string())
            .hint("a quote or bracket is not closed; single quotes keep a text as it is")
    })?;
    let mut stages: Vec<StageSpec> = Vec::new();
    let mut words: Vec<String> = Vec::new();
    for token in tokens {
        match token {
            Token::Word(word, span) => {
                if words.is_empty() {
                    refuse_first_word(&word, span.start.column)?;
                }
                words.push(plain_word(&word, span.start.column)?);
            }
            Token::Operator(operator, span) if operator == "|" => {
                stages.push(stage(std::mem::take(&mut words), span.start.column)?);
            }
            Token::Operator(operator, _) if operator == "\n" && words.is_empty() && !stages.is_empty() => {}
            Token::Operator(operator, span) => {
                let what = if operator == "\n" { "a line break".into() } else { format!("`{operator}`") };
                return Err(refused(&what, span.start.column, operator_hint(&operator)));
            }
        }
    }
    if !words.is_empty() || !stages.is_empty() {
        stages.push(stage(words, text.chars().count() + 1)?);
    }
    let spec = PipelineSpec { version: 1, stages, ..PipelineSpec::default() };
    spec.check()?;
    Ok(spec)
}

/// Refuses what only a shell could do before the grammar's crate sees it. That crate looks for the text of a here-document that
/// nobody ends, and takes all memory for it; it counts on numbers in expansions to be small; and patterns take it time that grows
/// with a power of their length.
fn refuse_expansions(text: &str) -> Result<(), SpecError> {
    let (mut quote, mut before) = (None, ' ');
    let mut characters = text.chars().enumerate().peekable();
    while let Some((index, c)) = characters.next() {
        let column = index + 1;
        let next = characters.peek().map_or(' ', |(_, next)| *next);
        match (quote, c) {
            (None | Some('"'), '\\') => {
                characters.next();
                before = ' ';
                continue;
            }
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => quote = Some(c),
            (None, '<') if next == '<' => return Err(refused("`<<`", column, operator_hint("<<"))),
            (None | Some('"'), '`') => {
                return Err(refused("a backtick", column, "quote it: '`' keeps it as it is"));
            }
            (None | Some('"'), '$') if next.is_ascii_alphanumeric() || "_{([*@#?!$-".contains(next) => {
                let hint = "quote it: '$' keeps it as it is; your shell expands \"$…\" before us";
                return Err(refused("`$`", column, hint));
            }
            (None, '(' | ')') => return Err(refused(&format!("`{c}`"), column, operator_hint("("))),
            (None, '*' | '?' | '[' | ']' | '{' | '}') => {
                return Err(refused(&format!("`{c}`"), column, "quote it: '…' keeps it as it is"));
            }
            (None, '~') if before.is_whitespace() || "|;&()".contains(before) => {
                return Err(refused("`~`", column, "write the path, or quote it: '~'"));
            }
            _ => {}
        }
        before = c;
    }
    Ok(())
}

fn stage(words: Vec<String>, column: usize) -> Result<StageSpec, SpecError> {
    let Some(first) = words.first() else {
        return Err(SpecError::new(format!("-c, column {column}"), "a stage is missing beside `|`"));
    };
    let wasm = match first.strip_prefix(':') {
        Some(name) => format!("builtin:{name}"),
        None if first.ends_with(".wasm") => first.clone(),
        None => return Ok(StageSpec { command: Some(words), ..StageSpec::default() }),
    };
    Ok(StageSpec { wasm: Some(wasm), args: Some(words[1..].to_vec()), ..StageSpec::default() })
}

/// Refuses what a shell would not take as a program's name.
fn refuse_first_word(word: &str, column: usize) -> Result<(), SpecError> {
    const RESERVED: [&str; 19] = [
        "!", "{", "}", "[[", "case", "coproc", "do", "done", "elif", "else", "fi", "for", "function", "if", "select",
        "then", "time", "until", "while",
    ];
    if RESERVED.contains(&word) {
        return Err(refused(&format!("`{word}`"), column, "use your shell around `stagehost run`"));
    }
    let name = word.split_once('=').map(|(name, _)| name).unwrap_or_default();
    if !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    {
        return Err(refused(&format!("`{name}=`"), column, "use --env KEY=VALUE, or `env KEY=VALUE program`"));
    }
    Ok(())
}

/// The text that a word stands for, if a shell would not have to expand anything to know it.
fn plain_word(word: &str, column: usize) -> Result<String, SpecError> {
    let pieces = brush_parser::word::parse(word, &ParserOptions::default())
        .map_err(|error| SpecError::new(format!("-c, column {column}"), error.to_string()))?;
    let mut text = String::new();
    append(&mut text, pieces, false, column)?;
    Ok(text)
}

fn append(text: &mut String, pieces: Vec<WordPieceWithSource>, quoted: bool, column: usize) -> Result<(), SpecError> {
    for WordPieceWithSource { piece, start_index, .. } in pieces {
        let column = column + start_index;
        match piece {
            WordPiece::Text(plain) => {
                if !quoted && let Some(special) = plain.chars().find(|c| "*?[]{}()".contains(*c)) {
                    return Err(refused(&format!("`{special}`"), column, "quote it: '…' keeps it as it is"));
                }
                text.push_str(&plain);
            }
            WordPiece::SingleQuotedText(plain) => text.push_str(&plain),
            WordPiece::EscapeSequence(escaped) => text.push_str(unescape(&escaped)),
            WordPiece::DoubleQuotedSequence(inner) => append(text, inner, true, column)?,
            WordPiece::TildeExpansion(_) => return Err(refused("`~`", column, "write the path, or quote it: '~'")),
            WordPiece::AnsiCQuotedText(_) | WordPiece::GettextDoubleQuotedSequence(_) => {
                return Err(refused("`$` before a quote", column, "plain '…' and \"…\" quotes are understood"));
            }
            WordPiece::ParameterExpansion(_)
            | WordPiece::CommandSubstitution(_)
            | WordPiece::ArithmeticExpression(_) => {
                return Err(refused(
                    "`$`",
                    column,
                    "quote it: '$' keeps it as it is; your shell expands \"$…\" before us",
                ));
            }
            WordPiece::BackquotedCommandSubstitution(_) => {
                return Err(refused("a backtick", column, "quote it: '`' keeps it as it is"));
            }
        }
    }
    Ok(())
}

/// The character behind a backslash; a backslash before a line break joins the lines.
fn unescape(escaped: &str) -> &str {
    match escaped.strip_prefix('\\') {
        Some("\n") => "",
        Some(rest) => rest,
        None => escaped,
    }
}

fn refused(what: &str, column: usize, hint: &str) -> SpecError {
    SpecError::new(format!("-c, column {column}"), format!("{what} would need a shell")).hint(hint)
}

fn operator_hint(operator: &str) -> &'static str {
    match operator {
        ">" | ">>" | ">|" => "use --stdout FILE; where a stage prints is its `stderr` in a pipeline file",
        ">&" | "<&" => "where a stage prints is its `stderr` in a pipeline file",
        "<" | "<<" | "<<<" => "use --stdin FILE",
        "&" | "&&" | "||" | ";" | "\n" => "one pipeline a run; use your shell for more",
        _ => "quote it, or use your shell around `stagehost run`",
    }
}

#[cfg(test)]
mod tests {
    use super::shorthand;

    #[test]
    fn what_only_a_shell_can_do_is_refused_before_it_is_tried() {
        // Found by the fuzzer: they took all time, or numbers too large for their type; those below took all memory.
        let number = "1".repeat(100);
        for text in
            [format!("~{number}"), format!("a | ~{number}/x"), format!("\"${{{number}}}\""), format!("${number}")]
        {
            assert!(shorthand(&text).unwrap_err().message.contains("would need a shell"), "{text}");
        }
        for text in
            ["A\n\n<<<<<\r<<<<<<<{WU ", "cat << X\ny\nX\n", "cat <<< x", "echo \"$(cat << X)\"", "echo \"`cat << X`\""]
        {
            let error = shorthand(text).unwrap_err();
            assert!(error.hint.is_some(), "{error:?}");
        }
        for text in ["echo '<<'", "echo \"<<\"", "echo \\<\\<"] {
            assert_eq!(shorthand(text).unwrap().stages[0].command.as_deref().unwrap()[1], "<<");
        }
    }
}
