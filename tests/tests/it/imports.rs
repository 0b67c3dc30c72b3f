//! Who imports whom: no files of a package do so in a circle, and no package reaches upward.
//!
//! An edge is a `use`, or a path in the code that begins with `crate`, `super`, `self` or a module below; a name that a file re-exports is
//! where it comes from. Files that only declare modules and re-export import nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use stagehost_tests::repository;
use syn::{Item, UseTree, Visibility, visit::Visit};

/// A module, as its names below the crate; the crate itself has none.
type Module = Vec<String>;

struct Package {
    files: BTreeMap<Module, syn::File>,
    /// The names that each file re-exports, and what they are.
    exports: BTreeMap<Module, BTreeMap<String, Module>>,
}

fn is_for_tests(item: &Item) -> bool {
    let attributes = match item {
        Item::Mod(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        _ => return false,
    };
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && matches!(&attribute.meta, syn::Meta::List(list) if list.tokens.to_string().contains("test"))
    })
}

/// All the paths of a tree of `use`, to their last names.
fn leaves(tree: &UseTree, before: &[String], found: &mut Vec<Vec<String>>) {
    let with = |name: &dyn ToString| [before, &[name.to_string()]].concat();
    match tree {
        UseTree::Path(path) => leaves(&path.tree, &with(&path.ident), found),
        UseTree::Name(name) => found.push(with(&name.ident)),
        UseTree::Rename(name) => found.push(with(&name.ident)),
        UseTree::Glob(_) => found.push(before.to_vec()),
        UseTree::Group(group) => group.items.iter().for_each(|tree| leaves(tree, before, found)),
    }
}

impl Package {
    fn read(source: &str) -> Self {
        fn walk(directory: &Path, module: &Module, files: &mut BTreeMap<Module, syn::File>) {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                let name = path.file_stem().unwrap().to_string_lossy().into_owned();
                let inner = [&module[..], std::slice::from_ref(&name)].concat();
                if path.is_dir() {
                    walk(&path, &inner, files);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    let is_crate = module.is_empty() && (name == "lib" || name == "main");
                    let mut file = syn::parse_file(&fs::read_to_string(&path).unwrap()).unwrap();
                    file.items.retain(|item| !is_for_tests(item));
                    files.insert(if is_crate { Module::new() } else { inner }, file);
                }
            }
        }
        let mut files = BTreeMap::new();
        walk(&repository().join(source), &Module::new(), &mut files);
        assert!(files.len() > 5, "{source} has sources");
        // Of tests alone.
        files.retain(|module, _| module.last().is_none_or(|name| name != "tests" && name != "loom_tests"));
        let mut package = Self { files, exports: BTreeMap::new() };
        let exports = |(module, file): (&Module, &syn::File)| {
            let mut names = BTreeMap::new();
            for item in &file.items {
                if let Item::Use(item) = item
                    && !matches!(item.vis, Visibility::Inherited)
                {
                    let mut found = Vec::new();
                    leaves(&item.tree, &[], &mut found);
                    let absolute = found.iter().filter_map(|path| package.absolute(module, path));
                    names.extend(absolute.filter_map(|path| Some((path.last()?.clone(), path))));
                }
            }
            (module.clone(), names)
        };
        package.exports = package.files.iter().map(exports).collect();
        package
    }

    /// A path as names below the crate, if it leads into the package.
    fn absolute(&self, module: &Module, path: &[String]) -> Option<Module> {
        let first = path.first()?;
        let mut base = match first.as_str() {
            "crate" => return Some(path[1..].to_vec()),
            "self" => return Some([module, &path[1..]].concat()),
            "super" => module.clone(),
            _ => {
                let below = [&module[..], std::slice::from_ref(first)].concat();
                return self.files.contains_key(&below).then(|| [module, path].concat());
            }
        };
        let ups = path.iter().take_while(|name| *name == "super").count();
        base.truncate(base.len().checked_sub(ups)?);
        Some([&base[..], &path[ups..]].concat())
    }

    /// The file in which that stands.
    fn file_of(&self, path: &[String]) -> Module {
        let mut file = path.to_vec();
        while !self.files.contains_key(&file) {
            file.pop();
        }
        let exported = path.get(file.len()).and_then(|name| self.exports[&file].get(name));
        match exported {
            Some(from) if *from != path => self.file_of(&[from, &path[file.len() + 1..]].concat()),
            _ => file,
        }
    }

    fn imports(&self, module: &Module, file: &syn::File) -> BTreeSet<Module> {
        struct Paths(Vec<Vec<String>>);
        impl<'ast> Visit<'ast> for Paths {
            fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
                leaves(&item.tree, &[], &mut self.0);
            }
            fn visit_path(&mut self, path: &'ast syn::Path) {
                // A name alone was imported, or is here.
                if path.segments.len() > 1 {
                    self.0.push(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
                }
                syn::visit::visit_path(self, path);
            }
        }
        if file.items.iter().all(|item| matches!(item, Item::Mod(_) | Item::Use(_) | Item::Macro(_))) {
            return BTreeSet::new();
        }
        let mut paths = Paths(Vec::new());
        paths.visit_file(file);
        let absolute = paths.0.iter().filter_map(|path| self.absolute(module, path));
        absolute.map(|path| self.file_of(&path)).filter(|other| other != module).collect()
    }
}

/// A way from a file back to itself.
fn circle<'a>(
    at: &'a Module,
    imports: &'a BTreeMap<Module, BTreeSet<Module>>,
    way: &mut Vec<&'a Module>,
    done: &mut BTreeSet<&'a Module>,
) -> Option<String> {
    if let Some(start) = way.iter().position(|module| *module == at) {
        let names = way[start..].iter().chain([&at]).map(|module| format!("crate::{}", module.join("::")));
        return Some(names.collect::<Vec<_>>().join(" → "));
    }
    if !done.insert(at) {
        return None;
    }
    way.push(at);
    let found = imports[at].iter().find_map(|next| circle(next, imports, way, done));
    way.pop();
    found
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    for source in ["host/src", "host/cli/src", "host/ring/src"] {
        let package = Package::read(source);
        let imports: BTreeMap<_, _> =
            package.files.iter().map(|(module, file)| (module.clone(), package.imports(module, file))).collect();
        assert!(imports.values().map(BTreeSet::len).sum::<usize>() > 10, "{source} imports nothing?");
        let mut done = BTreeSet::new();
        let found: Vec<_> =
            imports.keys().filter_map(|module| circle(module, &imports, &mut Vec::new(), &mut done)).collect();
        assert!(found.is_empty(), "in {source}:\n{}", found.join("\n"));
    }
}

#[test]
fn no_package_reaches_upward() {
    let below: [(&str, &[&str]); 3] = [("host/ring", &[]), ("host", &["stagehost-ring"]), ("host/cli", &["stagehost"])];
    for (package, may_use) in below {
        let manifest = fs::read_to_string(repository().join(package).join("Cargo.toml")).unwrap();
        let (_, dependencies) = manifest.split_once("[dependencies]").unwrap();
        let used: Vec<_> = dependencies
            .lines()
            .filter_map(|line| line.split(['.', ' ', '=']).next())
            .filter(|name| name.starts_with("stagehost"))
            .collect();
        assert_eq!(used, may_use, "{package}");
    }
}
