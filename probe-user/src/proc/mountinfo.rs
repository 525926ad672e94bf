//! /proc/PID/mountinfo: where file systems are mounted, and which directories overlays consist of.
//!
//! Owns the parsing of that file and of overlayfs's options. It reads nothing else and resolves no path.

use std::fs::File;
use std::io::{self, Read};

use super::Device;

/// Limit of the bytes that are read. A host with a thousand containers has about 4 MiB.
const FILE: u64 = 64 << 20;
/// Limit of the mounts that are kept (the kernel's `fs.mount-max` is 100 000 per namespace).
const MOUNTS: usize = 1 << 17;
/// Limit of the layers of an overlay that are kept (the kernel allows 500).
const LAYERS: usize = 1024;

/// A mount. Names are bytes: they need not be UTF-8.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The id, which is unique while the mount exists.
    pub id: u64,
    /// The id of the mount that the mount point is on.
    pub parent: u64,
    /// The device of the file system.
    pub device: Device,
    /// The directory of the file system that is mounted.
    pub root: Vec<u8>,
    /// The mount point, relative to the process's root.
    pub point: Vec<u8>,
    /// The type of the file system: `overlay`, `cgroup2`, …
    pub file_system: Vec<u8>,
    /// Whether nothing can be written through it.
    pub is_read_only: bool,
    /// The file system's own options, still escaped, so that a comma in a value stays octal.
    options: Vec<u8>,
}

/// The directories of an overlay, as they were given to mount(2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layers {
    /// The directories, topmost first. If there is a writable one, it is the first.
    pub directories: Vec<Vec<u8>>,
}

/// The mounts that a process sees, at most 131 072 of them.
pub fn of(pid: u32) -> io::Result<Vec<Mount>> {
    read(&format!("/proc/{pid}/mountinfo"))
}

/// The mounts that ctrace sees.
pub fn own() -> io::Result<Vec<Mount>> {
    read("/proc/self/mountinfo")
}

/// The mounts in this text, from a descriptor of such a file that is kept open to learn of changes.
pub fn of_file(file: &mut File) -> io::Result<Vec<Mount>> {
    let mut text = Vec::new();
    io::Seek::rewind(file)?;
    file.take(FILE).read_to_end(&mut text)?;
    Ok(parse(&text))
}

fn read(path: &str) -> io::Result<Vec<Mount>> {
    let mut text = Vec::new();
    File::open(path)?.take(FILE).read_to_end(&mut text)?;
    let mounts = parse(&text);
    tracing::debug!("read a mount table: {path}, {} mounts", mounts.len());
    Ok(mounts)
}

/// Lines that cannot be parsed are left out.
pub(crate) fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|byte| *byte == b'\n').filter_map(parse_line).take(MOUNTS).collect()
}

/// `id parent major:minor root point options [tags]… - type source options` (proc_pid_mountinfo(5)).
fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = number(fields.next()?)?;
    let parent = number(fields.next()?)?;
    let mut device = fields.next()?.split(|byte| *byte == b':');
    let device = Device {
        major: u32::try_from(number(device.next()?)?).ok()?,
        minor: u32::try_from(number(device.next()?)?).ok()?,
    };
    let root = unescape(fields.next()?);
    let point = unescape(fields.next()?);
    let is_read_only = fields.next()?.split(|byte| *byte == b',').any(|option| option == b"ro");
    fields.find(|field| *field == b"-")?;
    let file_system = unescape(fields.next()?);
    // The source may be empty, but is always there.
    let _source = fields.next()?;
    let options = fields.next().unwrap_or_default().to_vec();
    Some(Mount { id, parent, device, root, point, file_system, is_read_only, options })
}

fn number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Decodes the kernel's `\ooo` (three octal digits). Anything else stays as it is.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        if let [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] = rest {
            out.push(((a - b'0') << 6) | ((b - b'0') << 3) | (c - b'0'));
            rest = after;
        } else {
            out.push(*first);
            rest = tail;
        }
    }
    out
}

impl Mount {
    /// Whether it is an overlay.
    pub fn is_overlay(&self) -> bool {
        self.file_system == b"overlay"
    }

    /// Converts a path below the mount point to a path inside the mounted file system.
    pub fn inside(&self, path: &[u8]) -> Option<Vec<u8>> {
        let below = match self.point.as_slice() {
            b"/" => path,
            point => path.strip_prefix(point)?,
        };
        // `/a` is not the mount point of `/ab`.
        if !below.is_empty() && !below.starts_with(b"/") {
            return None;
        }
        let root = self.root.strip_suffix(b"/").unwrap_or(&self.root);
        Some([root, below].concat())
    }

    /// The value of one of the file system's own options.
    pub fn option(&self, name: &[u8]) -> Option<Vec<u8>> {
        let mut options = self.options.split(|byte| *byte == b',');
        let value = |option: &[u8]| Some(unescape(option.strip_prefix(name)?.strip_prefix(b"=")?));
        options.find_map(value).filter(|value| !value.is_empty())
    }

    /// The layers of an overlay. `lowerdir=` contains several, separated by colons (a colon in a path is
    /// escaped by a backslash). `lowerdir+=` (kernel 6.8) and `upperdir=` contain one each.
    pub fn layers(&self) -> Layers {
        let mut upper = Vec::new();
        let mut lower = Vec::new();
        for option in self.options.split(|byte| *byte == b',') {
            if let Some(value) = option.strip_prefix(b"upperdir=") {
                upper.push(unescape(value));
            } else if let Some(value) = option.strip_prefix(b"lowerdir+=") {
                lower.push(unescape(value));
            } else if let Some(value) = option.strip_prefix(b"lowerdir=") {
                lower.extend(split_lower(&unescape(value)));
            }
        }
        let directories = upper.into_iter().chain(lower).filter(|path| !path.is_empty());
        Layers { directories: directories.take(LAYERS).collect() }
    }
}

fn split_lower(value: &[u8]) -> Vec<Vec<u8>> {
    let mut parts = vec![Vec::new()];
    let mut bytes = value.iter();
    while let Some(byte) = bytes.next() {
        let literal = match byte {
            b':' => {
                parts.push(Vec::new());
                continue;
            }
            b'\\' => bytes.next().unwrap_or(byte),
            other => other,
        };
        if let Some(part) = parts.last_mut() {
            part.push(*literal);
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

    use super::*;
    use crate::test_rng::TestRng;

    const DOCKER: &str = "517 498 0:50 / / rw,relatime master:145 - overlay overlay rw,lowerdir=/var/lib/docker/overlay2/l/A:/var/lib/docker/overlay2/l/B,upperdir=/var/lib/docker/overlay2/c/diff,workdir=/var/lib/docker/overlay2/c/work,index=off";

    fn names(layers: &Layers) -> Vec<String> {
        layers.directories.iter().map(|path| String::from_utf8_lossy(path).into_owned()).collect()
    }

    #[test]
    fn a_docker_root_is_an_overlay_with_its_layers_in_order() {
        let mounts = parse(DOCKER.as_bytes());
        assert!(mounts[0].is_overlay());
        assert_eq!((mounts[0].id, mounts[0].device), (517, Device { major: 0, minor: 50 }));
        let directory = "/var/lib/docker/overlay2";
        let expected =
            [format!("{directory}/c/diff"), format!("{directory}/l/A"), format!("{directory}/l/B")];
        assert_eq!(names(&mounts[0].layers()), expected);
    }

    #[test]
    fn layers_of_every_spelling() {
        let cases: &[(&str, &[&str])] = &[
            ("ro,lowerdir=/a:/b", &["/a", "/b"]),
            ("rw,lowerdir=/a\\134:b:/c,upperdir=/u", &["/u", "/a:b", "/c"]),
            ("rw,lowerdir=/a\\072b", &["/a", "b"]),
            ("rw,lowerdir=/a\\134\\134b:/c\\040d\\054e", &["/a\\b", "/c d,e"]),
            ("rw,lowerdir+=/a:1,lowerdir+=/b,upperdir=/u", &["/u", "/a:1", "/b"]),
            ("rw,lowerdir=/a::/data", &["/a", "/data"]),
            ("rw,lowerdir=/a\\134", &["/a\\"]),
            ("rw", &[]),
            ("", &[]),
        ];
        for (options, expected) in cases {
            let line = format!("1 2 0:50 / / rw - overlay none {options}");
            let mounts = parse(line.as_bytes());
            assert_eq!(names(&mounts[0].layers()), *expected, "{options}");
        }
    }

    #[test]
    fn escapes_and_optional_fields() {
        let text =
            b"36 35 98:0 /mnt1 /mnt\\0402\\011\\012\\134x rw,noatime master:1 shared:2 - ext3 /dev/root rw\n\
            37 35 0:5 / /x rw - tmpfs  rw,size=1k\nnonsense\n38 35 0:6 / /y rw - proc proc";
        let mounts = parse(text);
        assert_eq!(mounts.iter().map(|mount| mount.id).collect::<Vec<_>>(), [36, 37, 38]);
        assert_eq!(mounts[0].point, b"/mnt 2\t\n\\x");
        assert_eq!(mounts[0].root, b"/mnt1");
        assert_eq!(mounts[1].file_system, b"tmpfs");
    }

    #[test]
    fn a_path_is_mapped_into_the_file_system() {
        let cases: &[(&str, &str, &str, Option<&str>)] = &[
            ("/", "/", "/usr/lib/x", Some("/usr/lib/x")),
            ("/", "/srv", "/srv/x", Some("/x")),
            ("/", "/srv", "/srvx", None),
            ("/", "/srv", "/other", None),
            ("/sub", "/", "/x", Some("/sub/x")),
            ("/sub/file", "/etc/file", "/etc/file", Some("/sub/file")),
        ];
        for (root, point, path, expected) in cases {
            let line = format!("1 2 0:50 {root} {point} rw - overlay none rw");
            let inside = parse(line.as_bytes())[0].inside(path.as_bytes());
            assert_eq!(inside.map(|path| String::from_utf8(path).unwrap()).as_deref(), *expected, "{path}");
        }
    }

    #[test]
    fn junk_does_not_panic() {
        let mut noise = TestRng(0x5eed_0002);
        for round in 0..20_000 {
            let alphabet: &[u8] = if round % 2 == 0 { b"" } else { b"01: /-\\lowerdi=,+ro\n" };
            let mut text = b"1 2 0:5 / / rw - overlay x lowerdir=".to_vec();
            text.extend(noise.bytes(alphabet));
            for mount in parse(&text) {
                let _ = (mount.layers(), mount.inside(&noise.bytes(alphabet)));
            }
        }
    }

    #[test]
    fn own_mounts_hold_a_root_and_proc() {
        let mounts = own().unwrap();
        assert!(mounts.iter().any(|mount| mount.point == b"/"));
        assert!(mounts.iter().any(|mount| mount.file_system == b"proc"));
        assert_eq!(of(std::process::id()).unwrap().len(), mounts.len());
    }
}
