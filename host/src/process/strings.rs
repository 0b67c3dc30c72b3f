//! Strings as `execve` takes them.

use std::{
    ffi::{CStr, CString, NulError, OsStr, OsString},
    io,
    os::unix::ffi::OsStrExt,
    sync::Arc,
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

fn list<'a>(texts: impl Iterator<Item = &'a CStr>) -> Vec<*const libc::c_char> {
    // The texts are on the heap: they stay where they are when what holds them moves.
    texts.map(CStr::as_ptr).chain(std::iter::once(std::ptr::null())).collect()
}

impl Strings<Vec<CString>> {
    pub(super) fn new(texts: impl IntoIterator<Item = Vec<u8>>) -> Result<Self, NulError> {
        let texts: Vec<CString> = texts.into_iter().map(CString::new).collect::<Result<_, _>>()?;
        Ok(Self { list: list(texts.iter().map(CString::as_c_str)), _texts: texts })
    }
}

impl Strings<Arc<Environment>> {
    pub(super) fn of(environment: Arc<Environment>) -> io::Result<Self> {
        Ok(Self { list: list(environment.texts()?.into_iter()), _texts: environment })
    }
}

/// A program's whole environment, as it is given it: each variable as `KEY=value`, with a zero behind.
#[derive(Clone, Debug, Default)]
pub(crate) struct Environment(Vec<Vec<u8>>);

impl Environment {
    /// Sets a variable.
    pub(crate) fn set(&mut self, key: &OsStr, value: &OsStr) {
        let is_of_key = |text: &[u8]| text.strip_prefix(key.as_bytes()).is_some_and(|rest| rest.starts_with(b"="));
        self.0.retain(|text| !is_of_key(text));
        self.0.push(Self::text(key, value));
    }

    fn text(key: &OsStr, value: &OsStr) -> Vec<u8> {
        [key.as_bytes(), b"=", value.as_bytes(), b"\0"].concat()
    }

    fn texts(&self) -> io::Result<Vec<&CStr>> {
        let ends_within = |_| io::Error::new(io::ErrorKind::InvalidInput, "a variable has a zero byte in it");
        self.0.iter().map(|text| CStr::from_bytes_with_nul(text).map_err(ends_within)).collect()
    }
}

impl FromIterator<(OsString, OsString)> for Environment {
    fn from_iter<I: IntoIterator<Item = (OsString, OsString)>>(variables: I) -> Self {
        Self(variables.into_iter().map(|(key, value)| Self::text(&key, &value)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_is_what_a_program_is_given() {
        let pair = |key: &str, value: &str| (OsString::from(key), OsString::from(value));
        let mut environment: Environment = [pair("A", "1"), pair("AB", "2")].into_iter().collect();
        let texts = |environment: &Environment| {
            environment.texts().map(|texts| texts.into_iter().map(CStr::to_owned).collect::<Vec<_>>())
        };
        assert_eq!(texts(&environment).expect("it is one"), [c"A=1", c"AB=2"].map(CStr::to_owned));
        environment.set(OsStr::new("A"), OsStr::new("3"));
        assert_eq!(texts(&environment).expect("it is one"), [c"AB=2", c"A=3"].map(CStr::to_owned));
        environment.set(OsStr::new("C"), OsStr::new("a\0b"));
        let error = texts(&environment).expect_err("a program would see half of it");
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
