//! The position file: one agent uses it, a damaged one is not overwritten, and nothing is repeated
//! because it can't be written.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::{Agent, confirmed, program, publish, written};
use crate::support::Service;
use crate::support::command::{CommandOutput, run};

/// Runs an agent that is expected to end at its start.
async fn run_with_position(service: &Service, key: &str, position: &Path) -> CommandOutput {
    let key_file = service.directory().join("key");
    fs::write(&key_file, key).expect("written");
    let never = program(service, "never", "echo never >>journal");
    let mut command = service.command("agent --instance a --log-format json");
    command.arg("--key-file").arg(key_file).arg("--position").arg(position);
    run(command.arg("--exec").arg(never)).await
}

fn fifo(path: &Path) {
    let mode = Mode::RUSR | Mode::WUSR;
    mknodat(CWD, path, FileType::Fifo, mode, 0).expect("a named pipe");
}

/// The names in a directory, in order.
fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("a directory").flatten();
    let mut names: Vec<_> = entries.map(|it| it.file_name().into_string().expect("text")).collect();
    names.sort();
    names
}

/// A read of a device may never end, and opening a named pipe blocks until another process writes to it.
#[tokio::test]
async fn only_a_regular_file_can_be_a_position_file() {
    let service = Service::start().await;
    let (_, key) = service.gateway("one").await;
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name);
    fifo(&at("pipe"));
    fs::create_dir(at("directory")).expect("created");
    symlink("pipe", at("link")).expect("linked");
    let before = names(directory.path());
    for name in ["pipe", "directory", "link", "."] {
        let position = at(name);
        let refused = run_with_position(&service, &key, &position).await;
        let shown = position.display().to_string();
        refused.failed(1, &["is not a regular file", &shown]);
        assert_eq!(names(directory.path()), before, "nothing was created beside {name}");
    }
    let lock = Path::new("/dev/full.lock");
    let had_lock = lock.exists();
    let refused = run_with_position(&service, &key, Path::new("/dev/full")).await;
    refused.failed(1, &["/dev/full is not a regular file"]);
    assert_eq!(lock.exists(), had_lock);
}

#[tokio::test]
async fn no_file_beside_the_position_blocks_the_start() {
    let service = Service::start().await;
    let (_, key) = service.gateway("one").await;
    for (name, says) in
        [("lock", "failed to lock the position"), ("new", "failed to write the position")]
    {
        let directory = tempfile::tempdir().expect("a directory");
        fifo(&directory.path().join(format!("position.{name}")));
        let position = directory.path().join("position");
        run_with_position(&service, &key, &position).await.failed(1, &[says]);
    }
}

#[tokio::test]
async fn a_file_that_is_larger_than_a_position_is_damaged() {
    let service = Service::start().await;
    let (_, key) = service.gateway("one").await;
    let directory = tempfile::tempdir().expect("a directory");
    let position = directory.path().join("position");
    File::create(&position).and_then(|file| file.set_len(3 << 30)).expect("a sparse file");
    let refused = run_with_position(&service, &key, &position).await;
    refused.failed(1, &["is damaged", "larger than a position"]);
    assert_eq!(fs::metadata(&position).expect("it stays").len(), 3 << 30);
}

/// The disk of the position is elsewhere. The agent's first start creates the file that the link names.
#[tokio::test]
async fn a_link_to_a_position_stays_and_two_agents_can_not_share_its_target() {
    let service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    let at = |name: &str| service.directory().join(name);
    fs::create_dir(at("disk")).expect("created");
    symlink("disk/file", at("between")).expect("linked");
    symlink(at("between"), at("position")).expect("linked");
    symlink("disk", at("other")).expect("linked");
    let record = program(&service, "record", "echo \"$GATEWAY_EVENTS_SEQUENCE\" >>journal");
    let first = Agent::start(&service, &key, &["--exec", &record]);
    publish(&service, &id, &["d-1"]).await;
    confirmed(&service, &id, 1).await;
    for name in ["disk/file", "other/file", "between", "other/../position"] {
        let second = run_with_position(&service, &key, &at(name)).await;
        second.failed(1, &["in use by another client", name]);
    }
    for link in ["position", "between"] {
        assert!(fs::symlink_metadata(at(link)).expect("there").is_symlink(), "{link}");
    }
    assert_eq!(names(&at("disk")), ["file", "file.lock", "file.program"]);
    let beside = names(service.directory());
    let is_beside = |name: &&String| name.starts_with("position.") || name.starts_with("between.");
    assert_eq!(beside.iter().find(is_beside), None, "{beside:?}");
    first.stop().await;
    publish(&service, &id, &["d-2"]).await;
    let agent = Agent::start(&service, &key, &["--exec", &record]);
    confirmed(&service, &id, 2).await;
    agent.stop().await;
    assert_eq!(written(&at("journal"), "2").await, "1\n2\n");
    symlink("circle", at("circle")).expect("linked");
    let refused = run_with_position(&service, &key, &at("circle")).await;
    refused.failed(1, &["circle", "Too many levels of symbolic links"]);
}

#[tokio::test]
async fn a_second_agent_with_the_same_file_is_refused() {
    let service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    let record = program(&service, "record", "echo \"$GATEWAY_EVENTS_SEQUENCE\" >>journal");
    let first = Agent::start(&service, &key, &["--exec", &record]);
    publish(&service, &id, &["d-1"]).await;
    confirmed(&service, &id, 1).await;
    let mut second = Agent::start(&service, &key, &["--exec", &record]);
    assert_eq!(second.ended().await, Some(1));
    second.logged("in use by another client; each instance needs a file of its own").await;
    publish(&service, &id, &["d-2"]).await;
    confirmed(&service, &id, 2).await;
    first.stop().await;
    assert_eq!(written(&service.directory().join("journal"), "2").await, "1\n2\n");
}

#[tokio::test]
async fn a_truncated_file_is_an_error_and_stays() {
    let service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    let record = program(&service, "record", "echo \"$GATEWAY_EVENTS_SEQUENCE\" >>journal");
    let agent = Agent::start(&service, &key, &["--exec", &record]);
    publish(&service, &id, &["d-1"]).await;
    confirmed(&service, &id, 1).await;
    agent.stop().await;
    let file = service.directory().join("position");
    let whole = fs::read_to_string(&file).expect("a position");
    for length in [0, whole.len() / 2] {
        fs::write(&file, &whole[..length]).expect("written");
        let mut agent = Agent::start(&service, &key, &["--exec", &record]);
        assert_eq!(agent.ended().await, Some(1));
        agent.logged("is damaged").await;
        assert_eq!(fs::read_to_string(&file).expect("a file"), whole[..length]);
    }
    // As the error says: without the file, the service's position counts.
    fs::remove_file(&file).expect("removed");
    publish(&service, &id, &["d-2"]).await;
    let agent = Agent::start(&service, &key, &["--exec", &record]);
    confirmed(&service, &id, 2).await;
    agent.stop().await;
    assert_eq!(written(&service.directory().join("journal"), "2").await, "1\n2\n");
}

#[tokio::test]
async fn an_applied_event_waits_until_its_position_can_be_stored() {
    let service = Service::start_with(&[("DELIVERY__MAX_ATTEMPTS", "2")]).await;
    let (id, key) = service.gateway("one").await;
    let record = program(&service, "record", "echo \"$GATEWAY_EVENTS_SEQUENCE\" >>journal");
    let mut agent = Agent::start(&service, &key, &["--exec", &record]);
    publish(&service, &id, &["d-1"]).await;
    confirmed(&service, &id, 1).await;
    // In the place of the file that is written first.
    let obstacle = service.directory().join("position.new");
    fs::create_dir(&obstacle).expect("created");
    publish(&service, &id, &["d-2"]).await;
    agent.logged("it can't be confirmed before its position is stored").await;
    // An agent that is stopped and started meanwhile hands over nothing.
    agent.signal(rustix::process::Signal::TERM);
    assert_eq!(agent.ended().await, Some(1), "{}", agent.log());
    for _ in 0..3 {
        let mut agent = Agent::start(&service, &key, &["--exec", &record]);
        assert_eq!(agent.ended().await, Some(1));
        agent.logged("failed to write the position file").await;
    }
    let journal = service.directory().join("journal");
    assert_eq!(fs::read_to_string(&journal).expect("written"), "1\n2\n");
    fs::remove_dir(&obstacle).expect("removed");
    publish(&service, &id, &["d-3"]).await;
    let agent = Agent::start(&service, &key, &["--exec", &record]);
    confirmed(&service, &id, 3).await;
    // Its position was not stored, so the second one is repeated once.
    assert_eq!(fs::read_to_string(&journal).expect("written"), "1\n2\n2\n3\n");
    fs::create_dir(&obstacle).expect("created");
    publish(&service, &id, &["d-4"]).await;
    let waiting = || agent.log().matches("it can't be confirmed before").count() > 1;
    super::until(waiting, || agent.log()).await;
    fs::remove_dir(&obstacle).expect("removed");
    confirmed(&service, &id, 4).await;
    agent.stop().await;
    assert_eq!(fs::read_to_string(&journal).expect("written"), "1\n2\n2\n3\n4\n");
    super::failures(&service, &id, 0).await;
}
