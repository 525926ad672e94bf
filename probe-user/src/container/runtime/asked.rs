//! What an engine of Docker's kind tells of images, one question each, and how long that is believed.
//!
//! Owns the answers of a run, bounded. Its list of containers has an image's name only while that is still
//! the image's: a tag that has moved is told by the image and by the container, each by itself.

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

/// How long the tags of an image are believed: one that moves is noticed when the engine is asked after that.
const BELIEVED: Duration = Duration::from_secs(5);
/// What all questions about images get of the time that an engine has for its answer: names of containers
/// come first.
const TIME: Duration = Duration::from_secs(2);
/// Questions that are under way at once.
const AT_ONCE: usize = 8;
/// Answers that are kept.
const KEPT: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// A question about images.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Question {
    /// What is the image with this id called?
    Names(String),
    /// What was the container with this id started with? That never changes.
    Started(String),
}

/// What was answered, and when.
#[derive(Clone, Debug)]
struct Told {
    at: Instant,
    names: Vec<String>,
}

/// By the address of the engine.
type Answers = LruCache<(String, Question), Told>;

fn answers() -> MutexGuard<'static, Answers> {
    static ANSWERS: LazyLock<Mutex<Answers>> = LazyLock::new(|| Mutex::new(LruCache::new(KEPT)));
    ANSWERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is remembered, unless it may be another by now.
fn known(address: &str, question: &Question) -> Option<Vec<String>> {
    let key = (address.to_owned(), question.clone());
    let told = answers().get(&key).cloned()?;
    let holds = matches!(question, Question::Started(_)) || told.at.elapsed() < BELIEVED;
    holds.then_some(told.names)
}

/// Completes the names of the images of containers; `images` has the id of each container's image, by the
/// container's. What is not answered in time leaves an image whose names are not all known.
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
    questions.retain(|question| known(address, question).is_none());
    if tokio::time::timeout(TIME, ask(docker, address, questions)).await.is_err() {
        tracing::debug!("{address}: not all images could be asked for in {TIME:?}");
    }
    for container in containers {
        let Some(image) = images.get(&container.id) else {
            let extent = if container.image.is_some() { Extent::Part } else { Extent::NoImage };
            container.image_names = ImageNames::new(container.image.clone(), extent);
            continue;
        };
        let names = known(address, &Question::Names(image.clone()));
        let started = match started(container, image) {
            Some(name) => Some(vec![name]),
            None => known(address, &Question::Started(container.id.clone())),
        };
        let extent = if names.is_some() && started.is_some() { Extent::All } else { Extent::Part };
        let mut all = ImageNames::new([image.clone()], extent);
        let first = started.as_ref().and_then(|names| names.first()).cloned();
        all.add(started.into_iter().chain(names).flatten());
        container.image = all.shown(first.as_deref().or(container.image.as_deref()));
        container.image_names = all;
    }
}

/// What the list shows, if it is a name: then the container was started with it, and it is still that
/// image's.
fn started(container: &ContainerInfo, image: &str) -> Option<String> {
    let shown = container.image.as_deref()?;
    let is_short_id = hexadecimal(image).starts_with(shown);
    (!is_id(shown) && !is_short_id).then(|| shown.to_owned())
}

/// Of those that have ended nothing is traced, and there may be many of them.
fn has_ended(container: &ContainerInfo) -> bool {
    matches!(container.state.as_str(), "exited" | "dead")
}

async fn ask(docker: &Docker, address: &str, questions: BTreeSet<Question>) {
    let mut asked = JoinSet::new();
    let mut questions = questions.into_iter();
    loop {
        while asked.len() < AT_ONCE
            && let Some(question) = questions.next()
        {
            let docker = docker.clone();
            asked.spawn(async move { (answer(&docker, &question).await, question) });
        }
        // It fails only if a task panicked, which is a bug that has been reported by then.
        let Some(answered) = asked.join_next().await else { return };
        match answered {
            Ok((Ok(names), question)) => {
                answers().put((address.to_owned(), question), Told { at: Instant::now(), names });
            }
            Ok((Err(error), question)) => tracing::debug!("{address}: {question:?}: {error}"),
            Err(_) => {}
        }
    }
}

async fn answer(docker: &Docker, question: &Question) -> Result<Vec<String>, Error> {
    match question {
        Question::Names(image) => match docker.inspect_image(image).await {
            Ok(found) => Ok([found.repo_tags, found.repo_digests].into_iter().flatten().flatten().collect()),
            // It was removed under the container: nothing is called by its name any more.
            Err(Error::DockerResponseServerError { status_code: 404, .. }) => Ok(Vec::new()),
            Err(error) => Err(error),
        },
        Question::Started(container) => {
            let found = docker.inspect_container(container, None::<InspectContainerOptions>).await?;
            Ok(found.config.and_then(|config| config.image).into_iter().collect())
        }
    }
}
