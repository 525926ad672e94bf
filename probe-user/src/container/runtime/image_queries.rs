//! Asks an engine of Docker's kind for the names of images, one request each, and caches the answers.
//!
//! Owns the cache, which is bounded. The engine's list of containers has the name of an image only while the
//! name belongs to that image. If the tag has moved, the names come from the image and the container
//! themselves.

use std::collections::{BTreeSet, HashMap};
use std::num::NonZeroUsize;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::errors::Error;
use bollard::query_parameters::InspectContainerOptions;
use lru::LruCache;
use tokio::task::JoinSet;

use super::ContainerInfo;
use super::images::{Extent, ImageNames, hexadecimal, is_id};

/// How long the tags of an image are cached. A tag that moved is noticed at the next question after that.
const BELIEVED: Duration = Duration::from_secs(5);
/// The part of an engine's time limit that all questions about images may use: the names of containers are
/// more important.
const TIME: Duration = Duration::from_secs(2);
/// Limit of concurrent questions.
const AT_ONCE: usize = 8;
/// Limit of cached answers.
const KEPT: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Question {
    /// The names of the image with this id.
    Names(String),
    /// The image name that was used to start the container with this id. It never changes.
    Started(String),
}

/// An answer, and when it came.
#[derive(Clone, Debug)]
struct CachedNames {
    at: Instant,
    names: Vec<String>,
}

/// By the address of the engine and the question.
type Answers = LruCache<(String, Question), CachedNames>;

fn answers() -> MutexGuard<'static, Answers> {
    static ANSWERS: LazyLock<Mutex<Answers>> = LazyLock::new(|| Mutex::new(LruCache::new(KEPT)));
    ANSWERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The cached answer, unless it is outdated.
fn cached(address: &str, question: &Question) -> Option<Vec<String>> {
    let key = (address.to_owned(), question.clone());
    let entry = answers().get(&key).cloned()?;
    let holds = matches!(question, Question::Started(_)) || entry.at.elapsed() < BELIEVED;
    holds.then_some(entry.names)
}

/// Fills in the image names of the containers. `images` maps the ids of containers to the ids of their
/// images. If an answer does not come in time, the names of that image count as incomplete.
pub(super) async fn name_images(
    docker: &Docker,
    address: &str,
    containers: &mut [ContainerInfo],
    images: &HashMap<String, String>,
) {
    let mut questions: BTreeSet<Question> = BTreeSet::new();
    for container in containers.iter().filter(|container| !has_ended(container)) {
        let Some(image) = images.get(&container.id) else { continue };
        questions.insert(Question::Names(image.clone()));
        questions
            .extend(started(container, image).is_none().then(|| Question::Started(container.id.clone())));
    }
    questions.retain(|question| cached(address, question).is_none());
    if tokio::time::timeout(TIME, query_all(docker, address, questions)).await.is_err() {
        tracing::debug!("{address}: could not get the names of all images within {TIME:?}");
    }
    for container in containers {
        let Some(image) = images.get(&container.id) else {
            let extent = if container.image.is_some() { Extent::Part } else { Extent::NoImage };
            container.image_names = ImageNames::new(container.image.clone(), extent);
            continue;
        };
        let names = cached(address, &Question::Names(image.clone()));
        let started = match started(container, image) {
            Some(name) => Some(vec![name]),
            None => cached(address, &Question::Started(container.id.clone())),
        };
        let extent = if names.is_some() && started.is_some() { Extent::All } else { Extent::Part };
        let mut all = ImageNames::new([image.clone()], extent);
        let first = started.as_ref().and_then(|names| names.first()).cloned();
        all.add(started.into_iter().chain(names).flatten());
        container.image = all.shown(first.as_deref().or(container.image.as_deref()));
        container.image_names = all;
    }
}

/// The image name in the list, if it is not an id: then it was used to start the container, and still belongs
/// to this image.
fn started(container: &ContainerInfo, image: &str) -> Option<String> {
    let shown = container.image.as_deref()?;
    let is_short_id = hexadecimal(image).starts_with(shown);
    (!is_id(shown) && !is_short_id).then(|| shown.to_owned())
}

/// Whether a container has ended. Such containers are not traced, and there may be many of them.
fn has_ended(container: &ContainerInfo) -> bool {
    matches!(container.state.as_str(), "exited" | "dead")
}

async fn query_all(docker: &Docker, address: &str, questions: BTreeSet<Question>) {
    let mut queries = JoinSet::new();
    let mut questions = questions.into_iter();
    loop {
        while queries.len() < AT_ONCE
            && let Some(question) = questions.next()
        {
            let docker = docker.clone();
            queries.spawn(async move { (query(&docker, &question).await, question) });
        }
        // This fails only if a task panicked. That is a bug, which the panic has reported already.
        let Some(answered) = queries.join_next().await else { return };
        match answered {
            Ok((Ok(names), question)) => {
                answers().put((address.to_owned(), question), CachedNames { at: Instant::now(), names });
            }
            Ok((Err(error), question)) => tracing::debug!("{address}: {question:?}: {error}"),
            Err(_) => {}
        }
    }
}

async fn query(docker: &Docker, question: &Question) -> Result<Vec<String>, Error> {
    match question {
        Question::Names(image) => match docker.inspect_image(image).await {
            Ok(found) => Ok([found.repo_tags, found.repo_digests].into_iter().flatten().flatten().collect()),
            // The image was removed while the container still uses it: it has no names any more.
            Err(Error::DockerResponseServerError { status_code: 404, .. }) => Ok(Vec::new()),
            Err(error) => Err(error),
        },
        Question::Started(container) => {
            let found = docker.inspect_container(container, None::<InspectContainerOptions>).await?;
            Ok(found.config.and_then(|config| config.image).into_iter().collect())
        }
    }
}
