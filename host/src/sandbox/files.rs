//! Granted directories: what may be opened in them.
//!
//! The stock host keeps guests inside; but it opens whatever it finds there, and opening a FIFO or some device waits on a thread
//! that nothing can take back. So every opening looks first: only files, directories and links are opened. A guest cannot
//! make anything else.

use wasmtime::{
    StoreContextMut,
    component::{Accessor, Linker, Resource},
};
use wasmtime_wasi::{
    filesystem::{Descriptor, WasiFilesystem, WasiFilesystemView},
    p2::{FsError, bindings::filesystem::types as fs2},
    p3::bindings::filesystem::types as fs3,
};

use super::store::Guest;

type Open2 = (Resource<Descriptor>, fs2::PathFlags, String, fs2::OpenFlags, fs2::DescriptorFlags);
type Open3 = (Resource<Descriptor>, fs3::PathFlags, String, fs3::OpenFlags, fs3::DescriptorFlags);

/// Puts our opening in the place of the stock one. Shadowing must be allowed.
pub(super) fn add_to_linker(components: &mut Linker<Guest>) -> wasmtime::Result<()> {
    components.instance("wasi:filesystem/types@0.2.12")?.func_wrap_async(
        "[method]descriptor.open-at",
        |mut store: StoreContextMut<'_, Guest>, (dir, follow, path, how, flags): Open2| {
            Box::new(async move {
                use fs2::{DescriptorType as Kind, HostDescriptor as Stock};
                let mut files = store.data_mut().wasi.filesystem();
                let seen = Stock::stat_at(&mut files, Resource::new_borrow(dir.rep()), follow, path.clone()).await;
                let opened = match seen {
                    Ok(seen) if !matches!(seen.type_, Kind::RegularFile | Kind::Directory | Kind::SymbolicLink) => {
                        Err(FsError::from(fs2::ErrorCode::NotPermitted))
                    }
                    // What is not there may be made.
                    _ => Stock::open_at(&mut files, dir, follow, path, how, flags).await,
                };
                Ok((match opened {
                    Ok(opened) => Ok(opened),
                    Err(error) => Err(error.downcast()?),
                },))
            })
        },
    )?;
    components.instance("wasi:filesystem/types@0.3.0")?.func_wrap_concurrent(
        "[method]descriptor.open-at",
        |store: &Accessor<Guest>, (dir, follow, path, how, flags): Open3| {
            Box::pin(async move {
                use fs3::{DescriptorType as Kind, HostDescriptorWithStore as Stock};
                let files = store.with_getter::<WasiFilesystem>(WasiFilesystemView::filesystem);
                let looked = Resource::new_borrow(dir.rep());
                let seen = <WasiFilesystem as Stock<Guest>>::stat_at(&files, looked, follow, path.clone()).await;
                let opened = match seen {
                    Ok(seen) if !matches!(seen.type_, Kind::RegularFile | Kind::Directory | Kind::SymbolicLink) => {
                        return Ok((Err(fs3::ErrorCode::NotPermitted),));
                    }
                    _ => <WasiFilesystem as Stock<Guest>>::open_at(&files, dir, follow, path, how, flags).await,
                };
                Ok((match opened {
                    Ok(opened) => Ok(opened),
                    Err(error) => Err(error.downcast()?),
                },))
            })
        },
    )
}
