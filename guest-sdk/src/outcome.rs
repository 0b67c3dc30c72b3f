//! What a stage's function may return, and how that becomes an exit code.

use std::{error::Error, fmt, io};

use crate::{process::exit_with_code, raw};

/// An exit code of the stage's own, 0 to 255.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitCode(pub u8);

/// A wrong use of the stage, such as an argument that it does not know. As an error of a stage's function it is printed without its
/// type, and the stage exits with code 2, as Unix programs do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage(pub String);

impl Usage {
    /// Of anything that says what is wrong, such as an argument parser's error.
    pub fn new(wrong: impl fmt::Display) -> Self {
        Self(wrong.to_string())
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Usage {}

/// The exit code of a wrong usage.
const USAGE: u8 = 2;

/// What a stage's function may return.
pub trait Outcome {
    /// The exit code, or the error to print.
    ///
    /// # Errors
    ///
    /// The error that ended the stage; the SDK prints it and exits 1.
    fn into_exit_code(self) -> Result<u8, Box<dyn Error>>;
}

impl Outcome for () {
    fn into_exit_code(self) -> Result<u8, Box<dyn Error>> {
        Ok(0)
    }
}

impl Outcome for ExitCode {
    fn into_exit_code(self) -> Result<u8, Box<dyn Error>> {
        Ok(self.0)
    }
}

impl<T: Outcome, E: Into<Box<dyn Error>>> Outcome for Result<T, E> {
    fn into_exit_code(self) -> Result<u8, Box<dyn Error>> {
        self.map_err(Into::into)?.into_exit_code()
    }
}

/// Ends the stage: prints an error's chain, and exits with the code unless it is 0.
pub(crate) fn end(outcome: impl Outcome, closed: io::Result<()>) -> Result<(), ()> {
    let ended = match (outcome.into_exit_code(), closed) {
        (Ok(_), Err(error)) => Err(error.into()),
        (ended, _) => ended,
    };
    match ended {
        Ok(0) => Ok(()),
        Ok(code) => {
            exit_with_code(code);
            Err(())
        }
        Err(error) => {
            let program = crate::program();
            if let Some(usage) = error.downcast_ref::<Usage>() {
                raw::print_error(&said(&program, usage));
                exit_with_code(USAGE);
            } else {
                raw::print_error(&chain(&program, &*error));
                exit_with_code(1);
            }
            Err(())
        }
    }
}

/// A message as it is printed: what has several lines is one message all the same.
fn said(who: &str, what: &(impl fmt::Display + ?Sized)) -> String {
    format!("{who}: {}\n", what.to_string().trim_end().replace('\n', "\n  "))
}

fn chain(program: &str, error: &dyn Error) -> String {
    let mut text = said(program, error);
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&said("caused by", cause));
        source = cause.source();
    }
    text
}
