//! The shorthand of `-c`: `':words | sort -u | ./plugin.wasm --x'`.
//!
//! Words and quoting are a shell's, by the rules of POSIX for quotes and backslashes; what only a shell could do is refused with
//! a hint. (Grammars of whole shells look for much more, and take time and memory for it that no bound is known of.)

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
    let mut stages: Vec<StageSpec> = Vec::new();
    let mut words: Vec<String> = Vec::new();
    for token in tokens(text)? {
        match token {
            Token::Word { word, raw, column } => {
                if words.is_empty() {
                    refuse_first_word(&raw, column)?;
                }
                words.push(word);
            }
            Token::Pipe(column) => stages.push(stage(std::mem::take(&mut words), column)?),
            Token::Break(_) if words.is_empty() && !stages.is_empty() => {}
            Token::Break(column) => return Err(refused("a line break", column, operator_hint("\n"))),
        }
    }
    if !words.is_empty() || !stages.is_empty() {
        stages.push(stage(words, text.chars().count() + 1)?);
    }
    if stages.is_empty() {
        return Err(SpecError::new("-c", "there is no stage").hint("`:cat` copies its input"));
    }
    let spec = PipelineSpec { version: 1, stages, is_shorthand: true, ..PipelineSpec::default() };
    spec.check()?;
    Ok(spec)
}

/// What a text is made of, with the column where it stands.
enum Token {
    /// A word without its quotes, and as it is written.
    Word { word: String, raw: String, column: usize },
    /// `|`.
    Pipe(usize),
    /// The end of a line.
    Break(usize),
}

/// The word that is being read.
struct Begun {
    word: String,
    raw: String,
    column: usize,
}

fn tokens(text: &str) -> Result<Vec<Token>, SpecError> {
    const EXPANSION: &str = "quote it: '$' keeps it as it is; your shell expands \"$…\" before us";
    const BACKTICK: &str = "quote it: '`' keeps it as it is";
    let characters: Vec<char> = text.chars().collect();
    let at = |index: usize| characters.get(index).copied();
    let expands =
        |index: usize| at(index + 1).is_some_and(|next| next.is_ascii_alphanumeric() || "_{([*@#?!$-".contains(next));
    let mut found = Vec::new();
    let mut begun: Option<Begun> = None;
    let mut index = 0;
    while let Some(c) = at(index) {
        let (start, column) = (index, index + 1);
        if matches!(c, ' ' | '\t' | '\n' | '|') {
            found.extend(begun.take().map(|Begun { word, raw, column }| Token::Word { word, raw, column }));
        }
        index += 1;
        match c {
            ' ' | '\t' => continue,
            '\n' => {
                found.push(Token::Break(column));
                continue;
            }
            '|' if !matches!(at(index), Some('|' | '&')) => {
                found.push(Token::Pipe(column));
                continue;
            }
            '#' if begun.is_none() => {
                // A comment, to the end of its line.
                while at(index).is_some_and(|c| c != '\n') {
                    index += 1;
                }
                continue;
            }
            '<' | '>' | '&' | ';' | '|' | '(' | ')' => {
                let mut operator = String::from(c);
                if let Some(next) = at(index)
                    && ["<<", "<&", ">>", ">&", ">|", "&&", "||", "|&"].contains(&&*format!("{c}{next}"))
                {
                    operator.push(next);
                }
                return Err(refused(&format!("`{operator}`"), column, operator_hint(&operator)));
            }
            '*' | '?' | '[' | ']' | '{' | '}' => {
                return Err(refused(&format!("`{c}`"), column, "quote it: '…' keeps it as it is"));
            }
            '~' if begun.is_none() => return Err(refused("`~`", column, "write the path, or quote it: '~'")),
            '`' => return Err(refused("a backtick", column, BACKTICK)),
            '$' if matches!(at(index), Some('\'' | '"')) => {
                return Err(refused("`$` before a quote", column, "plain '…' and \"…\" quotes are understood"));
            }
            '$' if expands(start) => return Err(refused("`$`", column, EXPANSION)),
            _ => {}
        }
        let word = begun.get_or_insert_with(|| Begun { word: String::new(), raw: String::new(), column });
        match c {
            '\\' => match at(index) {
                // It joins lines.
                Some('\n') => index += 1,
                Some(next) => {
                    word.word.push(next);
                    index += 1;
                }
                None => word.word.push(c),
            },
            '\'' => loop {
                let inside = at(index).ok_or_else(|| unterminated("single", text, start))?;
                index += 1;
                if inside == '\'' {
                    break;
                }
                word.word.push(inside);
            },
            '"' => loop {
                let inside = at(index).ok_or_else(|| unterminated("double", text, start))?;
                let (column, next) = (index + 1, at(index + 1));
                index += 1;
                match inside {
                    '"' => break,
                    '`' => return Err(refused("a backtick", column, BACKTICK)),
                    '$' if expands(column - 1) => return Err(refused("`$`", column, EXPANSION)),
                    '\\' if next == Some('\n') => index += 1,
                    '\\' if matches!(next, Some('$' | '`' | '"' | '\\')) => {
                        word.word.extend(next);
                        index += 1;
                    }
                    _ => word.word.push(inside),
                }
            },
            _ => word.word.push(c),
        }
        word.raw.extend(&characters[start..index]);
    }
    found.extend(begun.map(|Begun { word, raw, column }| Token::Word { word, raw, column }));
    Ok(found)
}

fn unterminated(kind: &str, text: &str, index: usize) -> SpecError {
    let before: String = text.chars().take(index).collect();
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    SpecError::new("-c", format!("unterminated {kind} quote at {line},{column}"))
        .hint("a quote or bracket is not closed; single quotes keep a text as it is")
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
