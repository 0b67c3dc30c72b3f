//! Functions made of smaller ones: a line or a token at a time, and texts.

use std::{
    io::{BufWriter, Read, Write},
    ops::Range,
};

use super::work::{Error, Input, Output, Result};

/// The longest line or token, in bytes.
pub const MAX_TOKEN: usize = 64 << 20;

/// What a tokenizer finds at the start of the bytes it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Split {
    /// Nothing yet: it must see more. At the end of the input this drops what is left.
    More,
    /// A token in `token`; `used` bytes from the start are done with.
    Token {
        /// How many bytes are done with; at least 1.
        used: usize,
        /// Where the token stands.
        token: Range<usize>,
    },
    /// No token, but `0` bytes from the start can be left out; at least 1.
    Skip(usize),
}

/// A function that is called with every token of the input and a buffered output.
///
/// `split` is shown the bytes that are there and whether they are the last. What was written before an error is flushed. Each run
/// begins with copies of both as they are now.
pub fn tokens(
    split: impl FnMut(&[u8], bool) -> Split + Clone + Send + Sync + 'static,
    each: impl FnMut(&[u8], &mut dyn Write) -> Result + Clone + Send + Sync + 'static,
) -> impl Fn(&mut Input, &mut Output) -> Result + Send + Sync + 'static {
    move |input, output| {
        let (mut split, mut each) = (split.clone(), each.clone());
        let mut output = BufWriter::with_capacity(32 << 10, output);
        let done = for_each_token(input, &mut split, |token| each(token, &mut output));
        let flushed = output.flush();
        done?;
        Ok(flushed?)
    }
}

/// A function that is called with every line of the input, without its line break, and a buffered output.
///
/// A last line without a line break is a line too. What was written before an error is flushed.
pub fn lines(
    each: impl FnMut(&[u8], &mut dyn Write) -> Result + Clone + Send + Sync + 'static,
) -> impl Fn(&mut Input, &mut Output) -> Result + Send + Sync + 'static {
    tokens(separated_by(b'\n'), each)
}

/// A tokenizer of what stands between bytes of one value. An empty last token is none.
pub fn separated_by(separator: u8) -> impl FnMut(&[u8], bool) -> Split + Clone + Send + Sync + 'static {
    // Where the search goes on when more bytes have come.
    let mut seen = 0;
    move |bytes, last| match memchr::memchr(separator, &bytes[seen..]) {
        Some(at) => {
            let end = std::mem::take(&mut seen) + at;
            Split::Token { used: end + 1, token: 0..end }
        }
        None if last && !bytes.is_empty() => {
            seen = 0;
            Split::Token { used: bytes.len(), token: 0..bytes.len() }
        }
        None => {
            seen = bytes.len();
            Split::More
        }
    }
}

/// A tokenizer of words: what stands between ASCII white space.
pub fn words() -> impl FnMut(&[u8], bool) -> Split + Clone + Send + Sync + 'static {
    // Where the search goes on when more of a word has come.
    let mut seen = 0;
    move |bytes, last| {
        let Some(start) = bytes.iter().position(|byte| !byte.is_ascii_whitespace()) else {
            return if bytes.is_empty() { Split::More } else { Split::Skip(bytes.len()) };
        };
        if start > 0 {
            return Split::Skip(start);
        }
        match bytes[seen..].iter().position(u8::is_ascii_whitespace) {
            Some(at) => {
                let end = std::mem::take(&mut seen) + at;
                Split::Token { used: end + 1, token: 0..end }
            }
            None if last => Split::Token { used: bytes.len(), token: 0..bytes.len() },
            None => {
                seen = bytes.len();
                Split::More
            }
        }
    }
}

/// A function that writes a text and reads nothing.
pub fn text(text: impl Into<bytes::Bytes>) -> impl Fn(&mut Input, &mut Output) -> Result + Send + Sync + 'static {
    let text = text.into();
    move |_, output| Ok(output.write_all(&text)?)
}

fn for_each_token(
    input: &mut Input,
    split: &mut impl FnMut(&[u8], bool) -> Split,
    mut each: impl FnMut(&[u8]) -> Result,
) -> Result {
    const READ: usize = 64 << 10;
    let mut buffer: Vec<u8> = Vec::with_capacity(READ);
    let mut start = 0;
    let mut last = false;
    loop {
        let step = split(&buffer[start..], last);
        let used = match step {
            Split::More if last => return Ok(()),
            Split::More => {
                buffer.drain(..start);
                start = 0;
                if buffer.len() >= MAX_TOKEN {
                    return Err(Error::msg(format!("a token is longer than {} MiB", MAX_TOKEN >> 20)));
                }
                let filled = buffer.len();
                buffer.resize(filled + READ, 0);
                let n = input.read(&mut buffer[filled..])?;
                buffer.truncate(filled + n);
                last = n == 0;
                continue;
            }
            Split::Skip(used) => used,
            Split::Token { used, token } => {
                let token =
                    buffer[start..].get(token).ok_or_else(|| Error::msg("the tokenizer points past its bytes"))?;
                each(token)?;
                used
            }
        };
        if used == 0 || used > buffer.len() - start {
            return Err(Error::msg("the tokenizer must move on by at least one byte of what it was shown"));
        }
        start += used;
    }
}
