//! `lower`: makes ASCII letters lower case; every other byte passes as it is.

use stagehost_guest::{Input, Output, Result, Usage, Write, stage};

fn run(input: &mut Input, output: &mut Output) -> Result {
    match stagehost_guest::args().first().map(String::as_str) {
        None => {}
        Some("--help") => return Ok(output.write_all(include_bytes!("../help.txt"))?),
        Some(other) => return Err(Usage(format!("it takes no arguments, and got {other:?}")).into()),
    }
    pass(input, output)
}

fn pass(input: &mut Input, output: &mut Output) -> Result {
    let mut lower = Vec::new();
    while let Some(chunk) = input.next_chunk()? {
        lower.clear();
        lower.extend_from_slice(chunk);
        lower.make_ascii_lowercase();
        output.write_all(&lower)?;
    }
    Ok(())
}

stage!(run, include_str!("../section.json"));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ascii_letters_change() {
        let mut output = Output::to_vec();
        pass(&mut Input::from_reader(&b"AbZ[\xc3\x84\xff"[..]), &mut output).unwrap();
        assert_eq!(output.into_vec(), b"abz[\xc3\x84\xff");
    }
}
