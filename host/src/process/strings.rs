//! Strings as `execve` takes them.

use std::{
    ffi::{CString, NulError, OsString},
    os::unix::ffi::OsStrExt,
    sync::{Arc, OnceLock},
};

/// A list of where texts are, that ends with a null, and the texts.
pub(super) struct Strings<T> {
    list: Vec<*const libc::c_char>,
    _texts: T,
}

impl<T> Strings<T> {
    pub(super) fn as_ptr(&self) -> *const *const libc::c_char {
        self.list.as_ptr()
    }
}

fn list(texts: &[CString]) -> Vec<*const libc::c_char> {
    // The texts are on the heap: they stay where they are when what holds them moves.
    texts.iter().map(|text| text.as_ptr()).chain(std::iter::once(std::ptr::null())).collect()
}

impl Strings<Vec<CString>> {
    pub(super) fn new(texts: impl IntoIterator<Item = Vec<u8>>) -> Result<Self, NulError> {
        let texts: Vec<CString> = texts.into_iter().map(CString::new).collect::<Result<_, _>>()?;
        Ok(Self { list: list(&texts), _texts: texts })
    }
}

impl Strings<Arc<Environment>> {
    pub(super) fn of(environment: Arc<Environment>) -> Result<Self, NulError> {
        Ok(Self { list: list(environment.texts()?), _texts: environment })
    }
}

/// A program's whole environment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Environment {
    variables: Vec<(OsString, OsString)>,
    /// As a program is given them, made once for all runs of a plan.
    texts: OnceLock<Vec<CString>>,
}

impl Environment {
    /// Sets a variable.
    pub(crate) fn set(&mut self, key: OsString, value: OsString) {
        self.texts = OnceLock::new();
        self.variables.retain(|(known, _)| *known != key);
        self.variables.push((key, value));
    }

    fn texts(&self) -> Result<&[CString], NulError> {
        if let Some(texts) = self.texts.get() {
            return Ok(texts);
        }
        let text = |(key, value): &(OsString, OsString)| [key.as_bytes(), b"=", value.as_bytes()].concat();
        let texts = self.variables.iter().map(|variable| CString::new(text(variable))).collect::<Result<_, _>>()?;
        Ok(self.texts.get_or_init(|| texts))
    }
}

impl FromIterator<(OsString, OsString)> for Environment {
    fn from_iter<I: IntoIterator<Item = (OsString, OsString)>>(variables: I) -> Self {
        Self { variables: variables.into_iter().collect(), texts: OnceLock::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_is_what_a_program_is_given() {
        let pair = |key: &str, value: &str| (OsString::from(key), OsString::from(value));
        let mut environment: Environment = [pair("A", "1"), pair("B", "2")].into_iter().collect();
        let texts = |environment: &Environment| {
            environment
                .texts()
                .map(|texts| texts.iter().map(|text| text.to_str().unwrap().to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(texts(&environment).unwrap(), ["A=1", "B=2"]);
        environment.set("A".into(), "3".into());
        assert_eq!(texts(&environment).unwrap(), ["B=2", "A=3"]);
        environment.set("C".into(), "a\0b".into());
        assert!(texts(&environment).is_err());
    }
}
