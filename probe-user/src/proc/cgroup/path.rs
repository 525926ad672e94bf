//! The forms in which runtimes write containers into the paths of cgroups.
//!
//! Owns the recognition of components. Pure.

/// The length of a container id in hexadecimal digits.
const ID: usize = 64;

/// A component of a path that stands for a container or user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PathComponent {
    /// The id of the container, or `user@UID.service` for a user.
    pub(super) id: String,
    pub(super) kind: PathKind,
    /// The end of the component in the path.
    pub(super) end: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PathKind {
    /// A container, with its runtime if only one runtime uses this form.
    Container(Option<&'static str>),
    /// The part that systemd leaves to a user, who may create any cgroup below it.
    User,
}

/// The containers and users in a path, outermost first.
pub(super) fn components(path: &[u8]) -> Vec<PathComponent> {
    let components: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    let mut end = 0;
    let mut found = Vec::new();
    for (index, component) in components.iter().enumerate() {
        end += component.len();
        let before = index.checked_sub(1).and_then(|before| components.get(before)).copied();
        let after = components.get(index + 1).copied();
        if let Some((id, kind)) = link(component, before, after) {
            found.push(PathComponent { id, kind, end });
        }
        end += 1;
    }
    found
}

fn link(component: &[u8], before: Option<&[u8]>, after: Option<&[u8]>) -> Option<(String, PathKind)> {
    let container = |id: &[u8], runtime| {
        let id = std::str::from_utf8(id).ok().filter(|id| !id.is_empty())?;
        Some((id.to_owned(), PathKind::Container(runtime)))
    };
    let before = before.unwrap_or_default();
    if is_user(component) {
        return Some((String::from_utf8_lossy(component).into_owned(), PathKind::User));
    }
    if let Some(name) = component.strip_prefix(b"lxc.payload.") {
        return container(name, Some("lxc"));
    }
    if before == b"lxc" || before == b"lxc.payload" {
        return container(component, Some("lxc"));
    }
    if let Some(machine) = machine(component, after) {
        return machine;
    }
    // Podman's pods have bare ids with the cgroupfs driver; their containers are `libpod-ID`.
    let is_pod = before == b"libpod_parent" && component.len() == ID;
    container(id(component).filter(|_| !is_pod)?, None)
}

/// Recognises `user@1000.service`.
fn is_user(component: &[u8]) -> bool {
    let id = component.strip_prefix(b"user@").and_then(|rest| rest.strip_suffix(b".service"));
    id.is_some_and(|id| !id.is_empty() && id.iter().all(u8::is_ascii_digit))
}

/// Recognises what systemd-machined registers: `machine-NAME.scope`, `systemd-nspawn@NAME.service`. Virtual
/// machines have this form too, and so has the process that supervises a container (`supervisor`); neither is
/// a container.
#[expect(clippy::option_option, reason = "a machine that is no container is not looked at further")]
fn machine(component: &[u8], after: Option<&[u8]>) -> Option<Option<(String, PathKind)>> {
    let scope = component.strip_prefix(b"machine-").and_then(|rest| rest.strip_suffix(b".scope"));
    let service = component.strip_prefix(b"systemd-nspawn@").and_then(|rest| rest.strip_suffix(b".service"));
    let name = unescape(scope.or(service)?);
    let is_supervisor = after == Some(b"supervisor") || (service.is_some() && after.is_none());
    let of = |name: &str, runtime| Some((name.to_owned(), PathKind::Container(Some(runtime))));
    Some(match name.as_deref() {
        None | Some("") => None,
        Some(_) if is_supervisor => None,
        Some(name) if name.starts_with("qemu-") => None,
        // The form that libvirt uses: `lxc-PID-NAME`.
        Some(name) => match name.strip_prefix("lxc-").and_then(|rest| rest.split_once('-')) {
            Some((pid, name)) if pid.bytes().all(|byte| byte.is_ascii_digit()) => of(name, "lxc"),
            _ => of(name, "systemd-nspawn"),
        },
    })
}

/// Decodes `\xHH`, by which systemd replaces characters that a unit's name cannot contain.
fn unescape(name: &[u8]) -> Option<String> {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((first, tail)) = rest.split_first() {
        let escaped = rest.strip_prefix(b"\\x").and_then(|rest| rest.split_at_checked(2));
        let byte = escaped.and_then(|(digits, tail)| {
            Some((u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?, tail))
        });
        let (byte, tail) = byte.unwrap_or((*first, tail));
        bytes.push(byte);
        rest = tail;
    }
    String::from_utf8(bytes).ok()
}

/// Recognises `ID`, `docker-ID.scope`, `libpod-ID.scope`, `cri-containerd-ID.scope`,
/// `SLICE:cri-containerd:ID`, …: the prefix of an id ends in a dash or a colon. A runtime's monitor process
/// (conmon) runs on the host, beside the container, and is not one of its processes.
fn id(component: &[u8]) -> Option<&[u8]> {
    let name = component.strip_suffix(b".scope").unwrap_or(component);
    let (prefix, id) = name.split_at_checked(name.len().checked_sub(ID)?)?;
    let is_prefix = prefix.is_empty() || prefix.ends_with(b"-") || prefix.ends_with(b":");
    (is_prefix && !prefix.ends_with(b"conmon-") && id.iter().all(|byte| is_digit(*byte))).then_some(id)
}

/// Runtimes write ids in lower case.
fn is_digit(byte: u8) -> bool {
    byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)
}

/// Whether a text is an id that a runtime generated, and is therefore unique.
pub(crate) fn is_id(text: &str) -> bool {
    text.len() == ID && text.bytes().all(is_digit)
}

/// Whether a text may be the prefix of such an id.
pub(crate) fn is_id_prefix(text: &str) -> bool {
    !text.is_empty() && text.len() <= ID && text.bytes().all(is_digit)
}
