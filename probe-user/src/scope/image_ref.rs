//! Names of images: `docker.io/library/nginx:1.25@sha256:…`, and what a shorter name means.
//!
//! Owns the comparison, part by part and never by substring. Pure. Image names are untrusted: whoever created
//! the image has chosen them.

/// The registry of a name without one.
const DEFAULT_REGISTRY: &str = "docker.io";
/// The owner of that registry's images without another owner: `nginx` is `library/nginx` there.
const DEFAULT_OWNER: &str = "library/";
/// The tag of a name with neither tag nor digest.
const DEFAULT_TAG: &str = "latest";

/// The parts of an image name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ImageRef<'a> {
    registry: Option<&'a str>,
    repository: &'a str,
    tag: Option<&'a str>,
    digest: Option<&'a str>,
}

/// The number of digits at which a prefix of an image id is accepted: as many as `docker images` shows.
const SHORT_ID: usize = 12;

/// Whether the user's name matches the image with these names. Its tag may match one of them and its digest
/// another one.
pub(super) fn is_any_meant(wanted: &str, names: &[&str]) -> bool {
    let is_any = |wanted: &str| names.iter().any(|shown| is_meant(wanted, shown));
    if is_any(wanted) {
        return true;
    }
    let ImageRef { tag: Some(tag), digest: Some(digest), .. } = parse(wanted) else { return false };
    let tagged = wanted.strip_suffix(digest).and_then(|rest| rest.strip_suffix('@'));
    let bare = tagged.and_then(|rest| rest.strip_suffix(tag)).and_then(|rest| rest.strip_suffix(':'));
    tagged.is_some_and(is_any) && bare.is_some_and(|bare| is_any(&format!("{bare}@{digest}")))
}

/// Whether a word is an image's id, or a prefix of it that is long enough.
fn is_short_id(wanted: &str, shown: &str) -> bool {
    let digits = wanted.strip_prefix("sha256:").unwrap_or(wanted);
    digits.len() >= SHORT_ID
        && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
        && shown.strip_prefix("sha256:").is_some_and(|shown| shown.starts_with(digits))
}

/// Whether the user's name matches this name of an image: they are equal, or equal in every part that the
/// user gave.
pub(super) fn is_meant(wanted: &str, shown: &str) -> bool {
    if wanted == shown || is_short_id(wanted, shown) {
        return true;
    }
    // An image without a name is shown by its id, which has no parts.
    if wanted.starts_with("sha256:") || shown.starts_with("sha256:") {
        return false;
    }
    let (wanted, shown) = (parse(wanted), parse(shown));
    let shown_tag = shown.tag.or(shown.digest.is_none().then_some(DEFAULT_TAG));
    !wanted.repository.is_empty()
        && wanted.repository == shown.repository
        && wanted.registry.is_none_or(|registry| registry == shown.registry.unwrap_or(DEFAULT_REGISTRY))
        && wanted.tag.is_none_or(|tag| Some(tag) == shown_tag)
        && wanted.digest.is_none_or(|digest| Some(digest) == shown.digest)
}

fn parse(name: &str) -> ImageRef<'_> {
    let (name, digest) = match name.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (name, None),
    };
    let (registry, rest) = match name.split_once('/') {
        // Docker tells a registry from an owner in the same way.
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (Some(first), rest),
        _ => (None, name),
    };
    let registry = registry.map(|name| if name == "index.docker.io" { DEFAULT_REGISTRY } else { name });
    let (repository, tag) = match rest.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, Some(tag)),
        _ => (rest, None),
    };
    let is_default = registry.is_none_or(|name| name == DEFAULT_REGISTRY);
    let repository = match repository.strip_prefix(DEFAULT_OWNER) {
        Some(name) if is_default && !name.contains('/') => name,
        _ => repository,
    };
    ImageRef { registry, repository, tag, digest }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_and_a_digest_may_come_from_two_names() {
        let names = ["docker.io/library/nginx:1.25", "nginx@sha256:ab", "sha256:cd"];
        for wanted in ["nginx:1.25@sha256:ab", "docker.io/nginx:1.25@sha256:ab", "nginx", "sha256:cd"] {
            assert!(is_any_meant(wanted, &names), "{wanted}");
        }
        for wanted in ["nginx:1.26@sha256:ab", "nginx:1.25@sha256:cd", "app:1.25@sha256:ab", "nginx:1@"] {
            assert!(!is_any_meant(wanted, &names), "{wanted}");
        }
    }

    #[test]
    fn a_shorter_name_means_every_longer_one_and_no_other() {
        let check = |wanted: &str, meant: &[&str], not: &[&str]| {
            for shown in meant {
                assert!(is_meant(wanted, shown), "{wanted} is not {shown}");
            }
            for shown in not {
                assert!(!is_meant(wanted, shown), "{wanted} is {shown}");
            }
        };
        check(
            "nginx",
            &[
                "nginx",
                "nginx:1.25",
                "library/nginx",
                "docker.io/library/nginx:1.25",
                "nginx@sha256:ab",
                "nginx:1@sha256:ab",
                "quay.io/nginx:2",
                "index.docker.io/library/nginx",
                "localhost:5000/nginx",
            ],
            &[
                "nginx2",
                "my-nginx",
                "team/nginx",
                "quay.io/team/nginx",
                "quay.io/library/nginx",
                "nginx/nginx",
                "nginx.example/x",
                "sha256:nginx",
                "",
                "Nginx",
            ],
        );
        check(
            "nginx:1.25",
            &["nginx:1.25", "docker.io/library/nginx:1.25", "nginx:1.25@sha256:ab"],
            &["nginx:1.2", "nginx:1.25.1", "nginx", "nginx@sha256:ab"],
        );
        check("nginx:latest", &["nginx", "docker.io/library/nginx"], &["nginx:1", "nginx@sha256:ab"]);
        check("docker.io/library/nginx", &["nginx:1", "docker.io/nginx"], &["quay.io/nginx"]);
        check("quay.io/nginx", &["quay.io/nginx:2"], &["nginx", "quay.io/team/nginx"]);
        check(
            "team/app",
            &["team/app:1", "ghcr.io/team/app@sha256:ab"],
            &["app", "x/team/app", "team/app/x"],
        );
        check("localhost:5000/app", &["localhost:5000/app:1"], &["localhost/app", "app"]);
        check("nginx@sha256:ab", &["docker.io/library/nginx:1@sha256:ab"], &["nginx", "nginx@sha256:abc"]);
        check("sha256:ab", &["sha256:ab"], &["sha256:abc", "sha256"]);
        check("sha256", &["sha256"], &["sha256:ab"]);
        check(
            "0123456789ab",
            &["sha256:0123456789abcdef"],
            &["sha256:1123456789abcdef", "sha256:0123456789"],
        );
        check("sha256:0123456789ab", &["sha256:0123456789abcdef"], &["sha256:x123456789abcdef"]);
        check("01234567", &["01234567:latest"], &["sha256:0123456789abcdef"]);
        check("", &[""], &["nginx", ":1", "@x/"]);
    }
}
