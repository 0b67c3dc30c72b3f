//! Compiled code on disk: a directory that only this user can write, a file for each component and kind of engine.
//!
//! Whoever writes such a file writes this process's code. So the directory and each file must belong to this user and be
//! writable by nobody else; files appear whole, by renaming, and are never changed. Disks damage files all the same, and damaged code
//! would be run: so each ends with a checksum over all of it. That is against damage; against forgers there is the ownership.
//!
//! The directory may stand among other things of the user's, so it is used only if it was made here, which a tag in it says; and in it
//! nothing is looked at, counted or removed whose name is not of the form that is made here.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::SystemTime,
};

use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    io::Errno,
};
use wasmtime::{Engine, Module, component::Component};
use xxhash_rust::xxh3::{Xxh3Default, xxh3_64};

use crate::digest::Digest;

/// What all files together may take, in bytes. The least recently used go first.
const MOST: u64 = 1 << 30;

/// Code that an engine can use.
pub(crate) enum Code {
    Component(Component),
    Module(Module),
}

/// A directory of compiled code.
#[derive(Debug)]
pub(crate) struct Artifacts(PathBuf);

/// Whether something belongs to us and nobody else can write it.
fn is_ours(metadata: &fs::Metadata) -> Result<(), String> {
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err("it belongs to another user".into());
    }
    if metadata.mode() & 0o022 != 0 {
        return Err("others can write to it".into());
    }
    Ok(())
}

impl Artifacts {
    /// Opens a directory, making it if need be.
    ///
    /// # Errors
    ///
    /// Why it is not used: it cannot be made, or others can write to it.
    pub(crate) fn open(directory: &Path) -> Result<Self, String> {
        if !directory.is_absolute() {
            return Err("its path is not absolute".into());
        }
        let text = |error: io::Error| error.to_string();
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(text)?;
        is_ours(&fs::metadata(directory).map_err(text)?)?;
        let code = directory.join(NAME);
        if !code.exists() {
            make(directory, &code).map_err(text)?;
        }
        is_ours(&fs::symlink_metadata(&code).map_err(text)?)?;
        match fs::read(code.join(TAG_NAME)) {
            Ok(tag) if tag == TAG.as_bytes() => Ok(Self(code)),
            _ => Err(format!("{} was not made by stagehost, or has lost its {TAG_NAME}", code.display())),
        }
    }

    /// The file of a component for engines like this one: another wasmtime, processor or setting has another.
    fn path(&self, engine: &Engine, digest: &Digest) -> PathBuf {
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        self.0.join(format!("{}-{:016x}", crate::digest::hex(digest), hasher.finish()))
    }

    /// Finds compiled code. What cannot be used is as good as not there.
    pub(crate) fn find(&self, engine: &Engine, digest: &Digest, is_module: bool) -> Option<Code> {
        let path = self.path(engine, digest);
        let metadata = fs::symlink_metadata(&path).ok().filter(fs::Metadata::is_file)?;
        is_ours(&metadata).ok()?;
        let found = load_file(engine, &path, is_module)?;
        // Used just now; a file system that keeps no times forgets in another order.
        let _ = fs::File::options().append(true).open(&path).and_then(|file| file.set_modified(SystemTime::now()));
        Some(found)
    }

    /// Keeps compiled code. A failure is none of the run's: the next one compiles again.
    pub(crate) fn keep(&self, engine: &Engine, digest: &Digest, code: &[u8]) {
        /// One file is not to push out all others.
        const MOST_OF_ONE: usize = 128 << 20;
        if code.len() > MOST_OF_ONE {
            return;
        }
        let path = self.path(engine, digest);
        // What cannot be kept is not kept.
        let _ = self.write(&path, code).and_then(|()| self.sweep());
    }

    fn write(&self, path: &Path, code: &[u8]) -> io::Result<()> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Relaxed);
        let temporary = self.0.join(temporary_name(number));
        let written =
            fs::File::options().write(true).create_new(true).mode(0o600).open(&temporary).and_then(|mut file| {
                file.write_all(code)?;
                file.write_all(&trailer(xxh3_64(code)))?;
                // A file that is there by name is whole, whatever happens to the machine.
                file.sync_data()?;
                fs::rename(&temporary, path)
            });
        written.inspect_err(|_| {
            let _ = fs::remove_file(&temporary);
        })
    }

    /// Removes the least recently used files until the rest is small enough, and what dead processes left half-written.
    fn sweep(&self) -> io::Result<()> {
        const LONG_AGO: std::time::Duration = std::time::Duration::from_secs(3600);
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.0)?.flatten() {
            let Some(form) = entry.file_name().to_str().and_then(Form::of) else { continue };
            let Some(metadata) = entry.metadata().ok().filter(fs::Metadata::is_file) else { continue };
            let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            match form {
                Form::Code => files.push((used, metadata.len(), entry.path())),
                Form::Temporary if used.elapsed().is_ok_and(|since| since > LONG_AGO) => {
                    let _ = fs::remove_file(entry.path());
                }
                Form::Temporary => {}
            }
        }
        files.sort();
        let mut all: u64 = files.iter().map(|(_, size, _)| size).sum();
        for (_, size, path) in files {
            if all <= MOST {
                break;
            }
            let _ = fs::remove_file(path);
            all -= size;
        }
        Ok(())
    }
}

/// The directory's name in the cache directory.
const NAME: &str = "stagehost-code";
/// The tag that says who made it. Its first line is the Cache Directory Tagging Specification's, by which backups leave it out.
const TAG_NAME: &str = "CACHEDIR.TAG";
const TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n# Made by stagehost for compiled code. It may be removed at any time.\n";

/// The name of a file that is being written.
fn temporary_name(number: u64) -> String {
    format!(".{}-{number}", std::process::id())
}

/// What a name of ours is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Code,
    Temporary,
}

impl Form {
    /// `None`: it is not one that is made here.
    fn of(name: &str) -> Option<Self> {
        let is = |text: &str, length: Option<usize>, fits: fn(u8) -> bool| {
            length.is_none_or(|length| text.len() == length) && !text.is_empty() && text.bytes().all(fits)
        };
        let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let is_digit = |byte: u8| byte.is_ascii_digit();
        match name.strip_prefix('.') {
            Some(rest) => {
                let (process, number) = rest.split_once('-')?;
                (is(process, None, is_digit) && is(number, None, is_digit)).then_some(Self::Temporary)
            }
            None => {
                let (digest, engine) = name.split_once('-')?;
                (is(digest, Some(64), is_hex) && is(engine, Some(16), is_hex)).then_some(Self::Code)
            }
        }
    }
}

/// Makes the directory with its tag in it: it is not there without. Another process may be faster, which is as good.
fn make(around: &Path, code: &Path) -> io::Result<()> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Relaxed);
    let new = around.join(format!(".{NAME}-{}-{number}", std::process::id()));
    fs::DirBuilder::new().mode(0o700).create(&new)?;
    let tag = new.join(TAG_NAME);
    let made = fs::File::options().write(true).create_new(true).mode(0o600).open(&tag).and_then(|mut file| {
        file.write_all(TAG.as_bytes())?;
        match renameat_with(CWD, &new, CWD, code, RenameFlags::NOREPLACE) {
            // Not every file system can: there it replaces an empty directory at most.
            Err(Errno::INVAL | Errno::NOSYS) => fs::rename(&new, code),
            renamed => renamed.map_err(io::Error::from),
        }
    });
    if made.is_err() {
        let _ = fs::remove_file(&tag);
        let _ = fs::remove_dir(&new);
    }
    made.or_else(|error| if code.exists() { Ok(()) } else { Err(error) })
}

/// What a file ends with: a mark, and the checksum of all before it.
const MARK: &[u8; 8] = b"stagecod";
const TRAILER: usize = 16;

/// How code of that checksum ends.
fn trailer(checksum: u64) -> [u8; TRAILER] {
    let mut trailer = [0; TRAILER];
    trailer[..8].copy_from_slice(MARK);
    trailer[8..].copy_from_slice(&checksum.to_le_bytes());
    trailer
}

/// Whether a file is as it was written. In pieces: a piece of memory that is used again costs less than the whole file's.
fn is_whole(mut file: &fs::File) -> io::Result<bool> {
    let length = file.metadata()?.len();
    let Some(mut left) = length.checked_sub(TRAILER as u64) else { return Ok(false) };
    let mut hasher = Xxh3Default::new();
    let mut piece = vec![0; 128 << 10];
    while left > 0 {
        let n = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        file.read_exact(&mut piece[..n])?;
        hasher.update(&piece[..n]);
        left -= n as u64;
    }
    let mut end = [0; TRAILER];
    file.read_exact(&mut end)?;
    Ok(end == trailer(hasher.digest()))
}

/// Loads code from a file of ours. `None`: it is not what was written.
fn load_file(engine: &Engine, path: &Path, is_module: bool) -> Option<Code> {
    let file = fs::File::open(path).ok()?;
    if !is_whole(&file).unwrap_or_default() {
        return None;
    }
    // SAFETY: the file is in a directory that only this user can write, and is one of those that `write` put there: the
    // output of this program's own compiler, complete, and undamaged by its checksum. The engine checks that it is for a
    // compiler, processor and settings like its own.
    unsafe {
        match is_module {
            true => Module::deserialize_file(engine, path).ok().map(Code::Module),
            false => Component::deserialize_file(engine, path).ok().map(Code::Component),
        }
    }
}

/// Loads code that a process of ours has compiled, or that an engine of this process has made bytes of.
///
/// # Errors
///
/// What the engine says.
pub(crate) fn load(engine: &Engine, code: &[u8], is_module: bool) -> wasmtime::Result<Code> {
    // SAFETY: the bytes come from memory that only this process and the compiler that it started have ever had, and that
    // is sealed since the compiler ended; or they never left this process.
    unsafe {
        match is_module {
            true => Module::deserialize(engine, code).map(Code::Module),
            false => Component::deserialize(engine, code).map(Code::Component),
        }
    }
}
