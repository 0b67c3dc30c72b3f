//! Granted directories: what may be opened in them.
//!
//! The stock host keeps guests inside; but it opens whatever it finds there, and opening a FIFO or some device waits on a thread
//! that nothing can take back. So every opening looks first, and so does setting times, which opens too: only files,
//! directories and links are opened. A guest cannot make anything else; one that renames a FIFO into the place of a file
//! between the look and the opening pins the thread that it is polled on, and no other.

use wasmtime::component::{Accessor, Linker, Resource};
use wasmtime_wasi::{
    WasiView,
    filesystem::{Descriptor, WasiFilesystem, WasiFilesystemView},
    p2::{FsError, bindings::filesystem::types as fs2},
    p3::bindings::filesystem::types as fs3,
};

use crate::sandbox::guest::{Guest, denials::Refusal};

type Open3 = (Resource<Descriptor>, fs3::PathFlags, String, fs3::OpenFlags, fs3::DescriptorFlags);
type Times3 = (Resource<Descriptor>, fs3::PathFlags, String, fs3::NewTimestamp, fs3::NewTimestamp);

/// Puts our opening of WASI 0.3 in the place of the stock one. Shadowing must be allowed.
pub(crate) fn add_to_linker(components: &mut Linker<Guest>) -> wasmtime::Result<()> {
    let mut files = components.instance("wasi:filesystem/types@0.3.0")?;
    files.func_wrap_concurrent(
        "[method]descriptor.open-at",
        |store: &Accessor<Guest>, (dir, follow, path, how, flags): Open3| {
            Box::pin(async move {
                use fs3::HostDescriptorWithStore as Stock;
                let writes = flags.contains(fs3::DescriptorFlags::WRITE)
                    || how.intersects(fs3::OpenFlags::CREATE | fs3::OpenFlags::TRUNCATE);
                let is_special = !may_open3(store, &dir, follow, &path).await;
                let is_read_only = store.with(|mut access| {
                    let table = access.get().wasi.ctx().table;
                    table.get(&dir).map(is_read_only)
                })?;
                let opened = if is_special {
                    Err(fs3::ErrorCode::NotPermitted)
                } else {
                    let files = store.with_getter::<WasiFilesystem>(WasiFilesystemView::filesystem);
                    let named = path.clone();
                    let opened =
                        <WasiFilesystem as Stock<Guest>>::open_at(&files, dir, follow, named, how, flags).await;
                    opened.map_or_else(|error| error.downcast().map(Err), |opened| Ok(Ok(opened)))?
                };
                let refused = match opened {
                    Err(_) if is_special => Some(Refusal::Special),
                    Err(fs3::ErrorCode::NotPermitted | fs3::ErrorCode::Access) if writes && is_read_only => {
                        Some(Refusal::ReadOnly)
                    }
                    Err(fs3::ErrorCode::NotPermitted | fs3::ErrorCode::Access) => Some(Refusal::Other),
                    _ => None,
                };
                store.with(|mut access| access.get().denials.note_open(&path, refused));
                Ok((opened,))
            })
        },
    )?;
    files.func_wrap_concurrent(
        "[method]descriptor.set-times-at",
        |store: &Accessor<Guest>, (dir, follow, path, accessed, modified): Times3| {
            Box::pin(async move {
                use fs3::HostDescriptorWithStore as Stock;
                if !may_open3(store, &dir, follow, &path).await {
                    return Ok((Err(fs3::ErrorCode::NotPermitted),));
                }
                let files = store.with_getter::<WasiFilesystem>(WasiFilesystemView::filesystem);
                let set = <WasiFilesystem as Stock<Guest>>::set_times_at(&files, dir, follow, path, accessed, modified);
                set.await.map_or_else(|error| Ok((Err(error.downcast()?),)), |()| Ok((Ok(()),)))
            })
        },
    )
}

/// Opens for a guest of WASI 0.2.
pub(crate) async fn open2(
    guest: &mut Guest,
    dir: Resource<Descriptor>,
    follow: fs2::PathFlags,
    path: String,
    how: fs2::OpenFlags,
    flags: fs2::DescriptorFlags,
) -> Result<Resource<Descriptor>, FsError> {
    let writes = flags.contains(fs2::DescriptorFlags::WRITE)
        || how.intersects(fs2::OpenFlags::CREATE | fs2::OpenFlags::TRUNCATE);
    let why =
        if writes && is_read_only(guest.wasi.ctx().table.get(&dir)?) { Refusal::ReadOnly } else { Refusal::Other };
    if !may_open2(guest, &dir, follow, &path).await {
        guest.denials.note_open(&path, Some(Refusal::Special));
        return Err(FsError::from(fs2::ErrorCode::NotPermitted));
    }
    let files = &mut guest.wasi.filesystem();
    let opened = fs2::HostDescriptor::open_at(files, dir, follow, path.clone(), how, flags).await;
    let is_refused = opened.as_ref().is_err_and(|error| {
        let code = error.downcast_ref();
        code.is_some_and(|code| matches!(code, fs2::ErrorCode::NotPermitted | fs2::ErrorCode::Access))
    });
    guest.denials.note_open(&path, is_refused.then_some(why));
    opened
}

/// Whether a directory is granted for reading only.
fn is_read_only(descriptor: &Descriptor) -> bool {
    matches!(descriptor, Descriptor::Dir(dir) if dir.perms.write_not_permitted())
}

/// Whether what stands at a path can be opened without waiting for anybody. What is not there may be made.
pub(crate) async fn may_open2(
    guest: &mut Guest,
    dir: &Resource<Descriptor>,
    follow: fs2::PathFlags,
    path: &str,
) -> bool {
    use fs2::DescriptorType::{Directory, RegularFile, SymbolicLink};
    let mut files = guest.wasi.filesystem();
    let looked = Resource::new_borrow(dir.rep());
    let seen = fs2::HostDescriptor::stat_at(&mut files, looked, follow, path.to_owned()).await;
    seen.map_or(true, |seen| matches!(seen.type_, RegularFile | Directory | SymbolicLink))
}

async fn may_open3(store: &Accessor<Guest>, dir: &Resource<Descriptor>, follow: fs3::PathFlags, path: &str) -> bool {
    use fs3::{
        DescriptorType::{Directory, RegularFile, SymbolicLink},
        HostDescriptorWithStore as Stock,
    };
    let files = store.with_getter::<WasiFilesystem>(WasiFilesystemView::filesystem);
    let looked = Resource::new_borrow(dir.rep());
    let seen = <WasiFilesystem as Stock<Guest>>::stat_at(&files, looked, follow, path.to_owned()).await;
    seen.map_or(true, |seen| matches!(seen.type_, RegularFile | Directory | SymbolicLink))
}
