//! Files below directories, whatever becomes of their names.

use std::{fs, os::unix::fs::symlink, path::Path};

use rustix::fs::{Mode, OFlags};

use super::{
    root::{open_beneath, walk},
    *,
};

fn place() -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    for directory in ["root", "root/d", "outside"] {
        fs::create_dir(at(directory)).unwrap();
    }
    fs::write(at("root/d/file"), "inside").unwrap();
    fs::write(at("outside/file"), "outside").unwrap();
    symlink("d/file", at("root/in")).unwrap();
    symlink(at("outside/file"), at("root/out")).unwrap();
    symlink("nowhere", at("root/dangling")).unwrap();
    place
}

fn root(place: &tempfile::TempDir) -> impl Iterator<Item = Root> {
    let path = fs::canonicalize(place.path().join("root")).unwrap();
    [Root::open(path.clone(), vec![path]).unwrap()].into_iter()
}

fn base(path: &Path) -> Base {
    Base::found(path, Named::anywhere(path))
}

fn below(place: &tempfile::TempDir, name: &str) -> Option<Named> {
    base(place.path()).below(&place.path().join(name), root(place))
}

#[test]
fn a_root_is_what_it_was_when_it_was_opened() {
    let place = place();
    let file = below(&place, "root/d/file").unwrap();
    fs::rename(place.path().join("root"), place.path().join("was")).unwrap();
    symlink("outside", place.path().join("root")).unwrap();
    fs::create_dir(place.path().join("outside/d")).unwrap();
    fs::write(place.path().join("outside/d/file"), "outside").unwrap();
    assert_eq!(file.read(100).unwrap(), b"inside");
}

#[test]
fn what_is_below_is_what_links_lead_to() {
    let place = place();
    let below = |name: &str| below(&place, name);
    symlink(fs::canonicalize(place.path().join("root/d")).unwrap(), place.path().join("root/all")).unwrap();
    symlink("../../root/in", place.path().join("root/d/round")).unwrap();
    for name in ["root/d/file", "root/in", "root/d/../in", "./root/./d/file", "root/all/file", "root/all/../all/../in"]
    {
        assert_eq!(below(name).unwrap().read(100).unwrap(), b"inside", "{name}");
    }
    assert!(below("root/new").is_some() && below("root/d/new").is_some());
    for name in ["outside/file", "outside/none", "root/out", "root/dangling", "root/../outside/new", "none/none"] {
        assert!(below(name).is_none(), "{name}");
    }
    assert!(below("root").is_some() && below(".").is_none());
    // Whether there is an outside or not, nothing leads over it.
    for name in ["root/../in", "root/../outside/../root/in", "outside/../root/in", "none/../root/in", "root/in/x"] {
        assert!(below(name).is_none(), "{name}");
    }
    // Out and back over what is known to be there is no way over it.
    for name in ["root/../root/in", "root/d/round", "root/d/../../root/in"] {
        assert_eq!(below(name).unwrap().read(100).unwrap(), b"inside", "{name}");
    }
    // However long the way is, it takes a descriptor or two and ends.
    let (deep, round) = ("d/../".repeat(700), format!("{}in", "d/../".repeat(3000)));
    assert_eq!(below(&format!("root/{deep}in")).unwrap().read(100).unwrap(), b"inside");
    assert!(below(&format!("root/{round}")).is_none());
    let whole = Root::open("/".into(), vec!["/".into()]).unwrap();
    assert!(base(Path::new("")).below(&place.path().join("root/in"), [whole].into_iter()).is_some());
    // From a base, the way may lead up over what is known to be there.
    let inner = place.path().join("root/d");
    let up = base(&inner).below(&inner.join("../../root/d/file"), root(&place));
    assert!(up.is_some(), "out of the root and back");
    fs::create_dir(place.path().join("jobs")).unwrap();
    symlink("jobs", place.path().join("link")).unwrap();
    for around in ["jobs", "link"].map(|name| place.path().join(name)) {
        let below = |name: &str| base(&around).below(&around.join(name), root(&place));
        assert!(below("../root/in").is_some());
        assert!(below("../outside/../root/in").is_none());
    }
    // One that ends as a directory's does names no file.
    for name in ["root/d/file/", "root/d/file/.", "root/new/", "root/new/."] {
        assert!(below(name).is_none(), "{name}");
    }
    symlink("d/file/", place.path().join("root/as-a-directory")).unwrap();
    assert!(below("root/as-a-directory").is_none() && below("root/d/").is_some() && below("root/d/.").is_some());
}

#[test]
fn a_base_is_where_it_was_found() {
    let place = place();
    let way = |name: &str| place.path().join(name);
    fs::create_dir_all(way("work/sub")).unwrap();
    let work = fs::canonicalize(way("work")).unwrap();
    let roots = || [Root::open(work.clone(), vec![work.clone()]).unwrap()].into_iter();
    let judged = base(place.path()).below(&way("work/sub"), roots()).unwrap();
    let around = Base::found(judged.path().to_owned(), judged);
    // A guest puts a link in its place: wherever that leads, by what other directories a file is judged tells nothing of it.
    for target in ["outside", "nowhere", "root/d"] {
        let _ = fs::remove_dir(way("work/sub"));
        let _ = fs::remove_file(way("work/sub"));
        symlink(way(target), way("work/sub")).unwrap();
        let below = |name: &str| around.below(&around.join(name), root(&place));
        assert!(below("../../root/in").is_some(), "{target}");
        assert!(below("../root/in").is_none() && below("../in").is_none() && below("file").is_none(), "{target}");
    }
    // One by way of a link within the directory is where that leads.
    symlink("d", way("root/current")).unwrap();
    let current = base(&way("root/current"));
    assert!(current.below(&way("root/current/file"), root(&place)).is_some());
    // And where it is not known, nothing is relative to it.
    let unknown = Base::new(way("root"), None);
    assert!(unknown.below(&way("root/in"), root(&place)).is_none());
}

#[test]
fn a_link_that_came_later_leads_nowhere() {
    let place = place();
    let directory = fs::File::open(place.path().join("root")).unwrap().into();
    let named = |name: &str| below(&place, name).unwrap();
    let (file, new) = (named("root/d/file"), named("root/d/new"));
    fs::rename(place.path().join("root/d"), place.path().join("root/was")).unwrap();
    symlink(place.path().join("outside"), place.path().join("root/d")).unwrap();
    assert!(file.read(100).unwrap_err().to_string().contains("is not where it was"));
    assert!(new.open(OFlags::WRONLY | OFlags::CREATE, Mode::RWXU).is_err());
    assert!(!place.path().join("outside/new").exists());
    for way in [open_beneath, walk] {
        let open = |name: &str| way(&directory, Path::new(name), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        assert!(open("was/file").is_ok() && open(".").is_ok());
        for name in ["d/file", "out", "../outside/file", "d/../was/file"] {
            assert!(open(name).is_err(), "{name}");
        }
    }
}
