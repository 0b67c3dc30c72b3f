//! Paths that WASI 0.2 guests hand over: none is copied that is longer than a path can be.

use wasmtime::{
    StoreContextMut,
    component::{Linker, Resource, WasmStr},
};
use wasmtime_wasi::{
    filesystem::{Descriptor, WasiFilesystemView},
    p2::{FsError, bindings::filesystem::types as files},
};

use super::files::{may_open2, open2};
use crate::sandbox::guest::Guest;

/// The longest path that the system takes, in bytes (Linux: `PATH_MAX`).
const LONGEST: usize = 4096;

type Answer<T> = wasmtime::Result<(Result<T, files::ErrorCode>,)>;

/// A call of a function with paths: they are read, or the call is answered with `name-too-long`; what the stock function says comes back.
macro_rules! shadow {
    ($linker:ident, $name:literal, $method:path, ($($arg:ident: $type:ty),*), $($path:ident),+) => {
        $linker.func_wrap_async(
            $name,
            |mut store: StoreContextMut<'_, Guest>, (dir, $($arg),*): (Resource<Descriptor>, $($type),*)| {
                Box::new(async move {
                    $(let Some($path) = read(&store, &$path)? else {
                        return Ok((Err(files::ErrorCode::NameTooLong),));
                    };)+
                    answer($method(&mut store.data_mut().wasi.filesystem(), dir, $($arg),*).await)
                })
            },
        )?;
    };
}

/// Puts our functions in the place of the stock ones. Shadowing must be allowed.
pub(crate) fn add_to_linker(components: &mut Linker<Guest>) -> wasmtime::Result<()> {
    use files::{DescriptorFlags, HostDescriptor as Stock, NewTimestamp, OpenFlags, PathFlags};
    let mut linker = components.instance("wasi:filesystem/types@0.2.12")?;
    shadow!(linker, "[method]descriptor.create-directory-at", Stock::create_directory_at, (path: WasmStr), path);
    shadow!(linker, "[method]descriptor.stat-at", Stock::stat_at, (follow: PathFlags, path: WasmStr), path);
    shadow!(
        linker,
        "[method]descriptor.link-at",
        Stock::link_at,
        (follow: PathFlags, from: WasmStr, there: Resource<Descriptor>, to: WasmStr),
        from,
        to
    );
    shadow!(linker, "[method]descriptor.readlink-at", Stock::readlink_at, (path: WasmStr), path);
    shadow!(linker, "[method]descriptor.remove-directory-at", Stock::remove_directory_at, (path: WasmStr), path);
    shadow!(
        linker,
        "[method]descriptor.rename-at",
        Stock::rename_at,
        (from: WasmStr, there: Resource<Descriptor>, to: WasmStr),
        from,
        to
    );
    shadow!(linker, "[method]descriptor.symlink-at", Stock::symlink_at, (from: WasmStr, to: WasmStr), from, to);
    shadow!(linker, "[method]descriptor.unlink-file-at", Stock::unlink_file_at, (path: WasmStr), path);
    shadow!(
        linker,
        "[method]descriptor.metadata-hash-at",
        Stock::metadata_hash_at,
        (follow: PathFlags, path: WasmStr),
        path
    );
    type Open = (Resource<Descriptor>, PathFlags, WasmStr, OpenFlags, DescriptorFlags);
    type Times = (Resource<Descriptor>, PathFlags, WasmStr, NewTimestamp, NewTimestamp);
    linker.func_wrap_async(
        "[method]descriptor.open-at",
        |mut store: StoreContextMut<'_, Guest>, (dir, follow, path, how, flags): Open| {
            Box::new(async move {
                match read(&store, &path)? {
                    Some(path) => answer(open2(store.data_mut(), dir, follow, path, how, flags).await),
                    None => Ok((Err(files::ErrorCode::NameTooLong),)),
                }
            })
        },
    )?;
    linker.func_wrap_async(
        "[method]descriptor.set-times-at",
        |mut store: StoreContextMut<'_, Guest>, (dir, follow, path, accessed, modified): Times| {
            Box::new(async move {
                let Some(path) = read(&store, &path)? else { return Ok((Err(files::ErrorCode::NameTooLong),)) };
                if !may_open2(store.data_mut(), &dir, follow, &path).await {
                    return Ok((Err(files::ErrorCode::NotPermitted),));
                }
                let mut wasi = store.data_mut().wasi.filesystem();
                answer(Stock::set_times_at(&mut wasi, dir, follow, path, accessed, modified).await)
            })
        },
    )
}

/// Reads a path; `None`: no path is that long.
fn read(store: &StoreContextMut<'_, Guest>, path: &WasmStr) -> wasmtime::Result<Option<String>> {
    let path = path.to_str(store)?;
    Ok((path.len() <= LONGEST).then(|| path.into_owned()))
}

/// What a guest is told of a call's end; what is no answer is a trap.
fn answer<T>(called: Result<T, FsError>) -> Answer<T> {
    called.map_or_else(|error| Ok((Err(error.downcast()?),)), |value| Ok((Ok(value),)))
}
