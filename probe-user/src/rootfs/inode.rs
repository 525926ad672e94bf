//! The real inode of a file: the key under which a probe is attached exactly once.
//!
//! A uprobe is attached to the inode in the file system that stores the file. The numbers that a container
//! sees on overlayfs are different: containers of one image show different devices for the same real file,
//! and a copied-up file keeps the inode number of its original. So on overlayfs the layers are searched. The
//! search compares attributes only and opens no file for reading.

use std::ffi::OsStr;
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::ResolveFlags;
use serde::Serialize;

use super::open::{Attributes, descriptor_path, open_beneath, open_directory};
use super::{ForeignFile, Mounts};
use crate::proc::Device;
use crate::proc::mountinfo::Mount;

/// `OVERLAYFS_SUPER_MAGIC` of linux/magic.h.
const OVERLAY: i64 = 0x794c_7630;
/// The attributes that mark a file of an upper layer as metadata only: its data is in a lower layer.
const METACOPY: [&std::ffi::CStr; 2] = [c"trusted.overlay.metacopy", c"user.overlay.metacopy"];

/// The identity of a file, whatever names, mounts and overlays lead to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct RealInode {
    device: Device,
    inode: u64,
    found: Found,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
enum Found {
    /// In the file system that stores the file.
    Stored,
    /// On an overlay, in an unknown layer. The key is unique within that overlay only, so the same real file
    /// may have another key through another overlay.
    Overlay,
}

impl RealInode {
    /// Never fails: a file whose layer is not found gets a key of the kind `Overlay`.
    pub(super) fn of(pid: u32, file: &ForeignFile, mounts: &Mounts) -> Self {
        let seen = file.attributes();
        let found = |found| Self { device: seen.device, inode: seen.inode, found };
        if !is_on_overlay(file) {
            return found(Found::Stored);
        }
        match stored(pid, file, mounts) {
            Some(real) => Self { device: real.device, inode: real.inode, found: Found::Stored },
            None => found(Found::Overlay),
        }
    }

    /// Whether the file was found in the file system that stores it. If not, the key is unique within one
    /// overlay only.
    pub fn is_certain(&self) -> bool {
        self.found == Found::Stored
    }
}

impl fmt::Display for RealInode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { device, inode, found } = self;
        let prefix = match found {
            Found::Stored => "",
            Found::Overlay => "overlay ",
        };
        write!(f, "{prefix}{}:{} inode {inode}", device.major, device.minor)
    }
}

/// An overlay, and the path of a file in it.
struct Place {
    overlay: Mount,
    path: PathBuf,
}

/// The original from which this file was copied up, if it was.
///
/// A process that mapped the file before the copy-up goes on executing the original, although /proc shows the
/// copy for the mapping (since kernel 6.8; before, it shows the original). So both need a probe; any one
/// process executes only one of them.
///
/// May block without limit on a hostile file system: see the description of the module.
pub fn before_copy_up(pid: u32, file: &ForeignFile, mounts: &Mounts) -> Option<(ForeignFile, RealInode)> {
    if !is_on_overlay(file) {
        return None;
    }
    let (path, layers) = layers(pid, file, mounts)?;
    let seen = file.attributes();
    let copy = search(seen, &path, layers.iter());
    // An overlay shows a copy under the inode number of its original if all layers are on one file system.
    let is_original =
        |found: &Attributes| found.inode == seen.inode && copy.is_none_or(|copy| copy.inode != found.inode);
    let handle = layers
        .iter()
        .flatten()
        .filter_map(|layer| open_in_layer(layer, &path))
        .find(|handle| Attributes::of(handle.as_fd()).is_ok_and(|found| is_original(&found)))?;
    let original = ForeignFile::from_handle(pid, file.name(), handle.as_fd()).ok()?;
    let inode = RealInode { device: original.device(), inode: original.inode(), found: Found::Stored };
    Some((original, inode))
}

fn is_on_overlay(file: &ForeignFile) -> bool {
    #[expect(clippy::unnecessary_cast, reason = "the field's type differs between architectures")]
    rustix::fs::fstatfs(file.as_fd()).is_ok_and(|answer| answer.f_type as i64 == OVERLAY)
}

fn stored(pid: u32, file: &ForeignFile, mounts: &Mounts) -> Option<Attributes> {
    let find = || {
        let (path, layers) = layers(pid, file, mounts)?;
        search(file.attributes(), &path, layers.iter())
    };
    // The mount tables may be outdated: a container may have started since they were read, or the mount id
    // may have been reused.
    find().or_else(|| if mounts.renew(file.attributes().mount) { find() } else { None })
}

/// The path of the file in its overlay, and for each layer, topmost first, the directories where it may be.
fn layers(pid: u32, file: &ForeignFile, mounts: &Mounts) -> Option<(PathBuf, Vec<Vec<PathBuf>>)> {
    let own = mounts.own();
    let place = place(file, &mounts.of(pid), &own)?;
    let bases = bases(&own, place.overlay.device);
    let layers = place.overlay.layers().directories;
    Some((place.path, layers.iter().map(|layer| layer_paths(layer, &bases)).collect()))
}

/// Finds the overlay by mount id. Device numbers are not enough, because an overlay with layers on different
/// file systems shows files under other device numbers than its own.
fn place(file: &ForeignFile, theirs: &[Mount], own: &[Mount]) -> Option<Place> {
    let name = file.name().as_os_str().as_bytes();
    let attributes = file.attributes();
    let by_id = theirs.iter().chain(own).find(|mount| mount.is_overlay() && mount.id == attributes.mount);
    // A process in a chroot does not see the mount of its own root, and nobody sees a detached mount. Any
    // other mount of the same overlay serves as well, because it has the same layers.
    let by_device =
        || own.iter().chain(theirs).find(|mount| mount.is_overlay() && mount.device == attributes.device);
    let overlay = by_id.or_else(by_device)?;
    let inside = by_id.and_then(|mount| mount.inside(name)).unwrap_or_else(|| name.to_vec());
    let path = PathBuf::from(OsStr::from_bytes(inside.strip_prefix(b"/").unwrap_or(&inside)));
    Some(Place { overlay: overlay.clone(), path })
}

/// The directories to which an overlay's relative layer paths may be relative. A runtime with many layers
/// changes to its own directory before it mounts: Docker to /var/lib/docker/overlay2, for a mount at
/// ID/merged.
pub(super) fn bases(own: &[Mount], overlay: Device) -> Vec<PathBuf> {
    own.iter()
        .filter(|mount| mount.is_overlay() && mount.device == overlay)
        .flat_map(|mount| Path::new(OsStr::from_bytes(&mount.point)).ancestors().skip(1).take(3))
        .map(Path::to_owned)
        .collect()
}

pub(super) fn layer_paths(layer: &[u8], bases: &[PathBuf]) -> Vec<PathBuf> {
    let layer = Path::new(OsStr::from_bytes(layer));
    if layer.is_absolute() {
        return vec![layer.to_owned()];
    }
    bases.iter().map(|base| base.join(layer)).collect()
}

/// The first file with this path, from the top layer down, with the size and times of the overlay file. An
/// overlay passes these through from the real file, and no two versions of a file have the same change time.
/// So neither a file that hides another one, nor a whiteout above an unlinked one, leads to the wrong file.
fn search<'a>(
    seen: &Attributes,
    path: &Path,
    layers: impl Iterator<Item = &'a Vec<PathBuf>>,
) -> Option<Attributes> {
    let mut attributes_only = false;
    for layer in layers {
        let Some((file, is_metacopy)) = layer.iter().find_map(|directory| find_in_layer(directory, path))
        else {
            continue;
        };
        let same = if attributes_only { file.size == seen.size } else { file.same_content_history(seen) };
        match (same, is_metacopy) {
            (true, false) => return Some(file),
            (true, true) => attributes_only = true,
            (false, _) => {}
        }
    }
    None
}

/// A file of a layer, and whether its data is in another layer.
fn find_in_layer(layer: &Path, path: &Path) -> Option<(Attributes, bool)> {
    let file = open_in_layer(layer, path)?;
    let attributes = Attributes::of(file.as_fd()).ok()?;
    let link = descriptor_path(file.as_fd());
    let is_metacopy =
        METACOPY.iter().any(|name| rustix::fs::getxattr(&link, *name, &mut [0_u8; 0][..]).is_ok());
    Some((attributes, is_metacopy))
}

/// Opens a file of a layer in ctrace's own mount namespace. Mounts below the layer are not crossed, because
/// an overlay does not see them either.
fn open_in_layer(layer: &Path, path: &Path) -> Option<OwnedFd> {
    let layer = open_directory(layer).ok()?;
    open_beneath(layer.as_fd(), path, ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV).ok()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::fs;

    use super::*;
    use crate::proc::mountinfo;

    struct Tree(tempfile::TempDir);

    impl Tree {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn layer(&self, name: &str) -> PathBuf {
            let path = self.0.path().join(name);
            fs::create_dir_all(&path).unwrap();
            path
        }

        fn file(&self, name: &str, content: &str) -> Attributes {
            let path = self.0.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, content).unwrap();
            let file = fs::File::open(path).unwrap();
            Attributes::of(file.as_fd()).unwrap()
        }
    }

    fn find(tree: &Tree, seen: &Attributes, layers: &[&str]) -> Option<u64> {
        let layers: Vec<_> = layers.iter().map(|layer| vec![tree.layer(layer)]).collect();
        search(seen, Path::new("lib/x"), layers.iter()).map(|file| file.inode)
    }

    #[test]
    fn the_first_layer_with_the_same_version_wins() {
        let tree = Tree::new();
        let lower = tree.file("b/lib/x", "one");
        assert_eq!(find(&tree, &lower, &["a", "b", "c"]), Some(lower.inode));
        // A newer version is above it, as after a copy-up that this process did not notice.
        tree.file("a/lib/x", "longer");
        assert_eq!(find(&tree, &lower, &["a", "b"]), Some(lower.inode));
    }

    #[test]
    fn a_copy_of_equal_size_is_another_file() {
        let tree = Tree::new();
        let lower = tree.file("b/lib/x", "one");
        std::thread::sleep(std::time::Duration::from_millis(20));
        let upper = tree.file("a/lib/x", "one");
        assert_eq!(find(&tree, &upper, &["a", "b"]), Some(upper.inode));
        assert_eq!(find(&tree, &lower, &["a", "b"]), Some(lower.inode));
    }

    #[test]
    fn what_no_layer_holds_is_not_found() {
        let tree = Tree::new();
        let elsewhere = tree.file("elsewhere", "one");
        std::os::unix::fs::symlink("../../elsewhere", tree.layer("a/lib").join("x")).unwrap();
        assert_eq!(find(&tree, &elsewhere, &["a", "missing"]), None);
    }

    #[test]
    fn relative_layers_are_searched_where_a_runtime_mounts() {
        let line = b"1 2 0:50 / /var/lib/docker/overlay2/abc/merged rw - overlay overlay rw,lowerdir=l/A";
        let own = mountinfo::parse(line);
        let bases = bases(&own, Device { major: 0, minor: 50 });
        assert!(layer_paths(b"l/A", &bases).contains(&PathBuf::from("/var/lib/docker/overlay2/l/A")));
        assert_eq!(layer_paths(b"/abs", &bases), [PathBuf::from("/abs")]);
    }

    #[test]
    fn a_key_says_where_it_comes_from() {
        let device = Device { major: 0, minor: 50 };
        let stored = RealInode { device, inode: 7, found: Found::Stored };
        let overlay = RealInode { found: Found::Overlay, ..stored };
        assert_ne!(stored, overlay);
        assert_eq!(stored.to_string(), "0:50 inode 7");
        assert_eq!(overlay.to_string(), "overlay 0:50 inode 7");
        assert!(stored.is_certain() && !overlay.is_certain());
    }
}
