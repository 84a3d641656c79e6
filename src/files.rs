//! Files that contain secrets or belong to the service alone. Creating one never replaces an
//! existing file and never follows a link.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Only the owner may read or write.
pub const PRIVATE: u32 = 0o600;
/// Everyone may read, only the owner may write.
pub const PUBLIC: u32 = 0o644;
/// The bits of a mode that give others access.
const OTHERS: u32 = 0o077;
/// The bits of a mode that allow others to write.
const OTHERS_WRITE: u32 = 0o022;

/// The metadata of a path, without following a link; `None` if it does not exist.
pub fn found(path: &Path) -> io::Result<Option<Metadata>> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Creates a file. Fails if the path exists, even as a dangling link.
pub fn create_new(path: &Path, mode: u32) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(mode).open(path)
}

/// Creates and writes a file, and syncs it to disk.
pub fn write_new(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut file = create_new(path, mode)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    sync_directory_of(path)
}

/// Writes a file, replacing one of that name: after a crash there is either the old one or the new
/// one. `path` with `.new` appended is used for the time being.
pub fn replace(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = Path::new(&new);
    // Left behind by a crash.
    match std::fs::remove_file(new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    write_new(new, text, mode)?;
    std::fs::rename(new, path)?;
    sync_directory_of(path)
}

/// Renames a file. Fails if the new name exists.
pub fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        use rustix::io::Errno;
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            // Some file systems can't do this in one step.
            Err(Errno::INVAL | Errno::NOSYS) => {}
            done => return Ok(done?),
        }
    }
    if found(to)?.is_some() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    std::fs::rename(from, to)
}

/// Syncs the directory that contains a path: only then a new or changed name is on the disk.
pub fn sync_directory_of(path: &Path) -> io::Result<()> {
    File::open(directory_of(path))?.sync_all()
}

/// Gives a file to the owner of another one, or of its directory if that does not exist, when a command
/// is run by root: the service, which has fewer privileges, must be able to open it. SQLite does the same
/// for the files beside a database.
pub fn give_to_owner_of(file: &Path, like: &Path) -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let owner = match found(like)? {
        Some(owner) => owner,
        None => std::fs::metadata(directory_of(like))?,
    };
    std::os::unix::fs::chown(file, Some(owner.uid()), Some(owner.gid()))
}

/// The directory that contains a path.
pub fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The path of a file with all links followed. The file does not have to exist, and neither does the one
/// to which a link at the end leads; its directory does.
pub fn resolved(path: &Path) -> io::Result<PathBuf> {
    /// As many as Linux follows.
    const MAX_LINKS: usize = 40;
    let mut path = path.to_owned();
    for _ in 0..=MAX_LINKS {
        let Some(name) = path.file_name() else {
            return std::fs::canonicalize(&path);
        };
        let directory = std::fs::canonicalize(directory_of(&path))?;
        let file = directory.join(name);
        match std::fs::read_link(&file) {
            Ok(target) => path = directory.join(target),
            // It is not a link, or does not exist.
            Err(error)
                if [io::ErrorKind::InvalidInput, io::ErrorKind::NotFound]
                    .contains(&error.kind()) =>
            {
                return Ok(file);
            }
            Err(error) => return Err(error),
        }
    }
    Err(rustix::io::Errno::LOOP.into())
}

/// Warns if others than the owner can access a file with a secret. Follows links, because what
/// matters is the file that contains the secret.
pub fn warn_if_exposed(path: &Path, what: &str) {
    let Ok(metadata) = std::fs::metadata(path) else {
        return;
    };
    if metadata.mode() & OTHERS != 0 {
        tracing::warn!(
            path = %path.display(),
            mode = format!("{:04o}", metadata.mode() & 0o7777),
            "other users of this machine have access to {what}; run `chmod 600` on it, as its owner"
        );
    }
}

/// Warns if others than the owner of a file or directory can write to it.
pub fn warn_if_writable(path: &Path, what: &str) {
    let Ok(metadata) = std::fs::metadata(path) else {
        return;
    };
    if metadata.mode() & OTHERS_WRITE != 0 {
        tracing::warn!(
            path = %path.display(),
            mode = format!("{:04o}", metadata.mode() & 0o7777),
            "other users of this machine can write to {what}; run `chmod go-w` on it, as its owner"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_followed_to_files_that_do_not_exist_yet() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        let at = |name: &str| root.join(name);
        std::fs::create_dir(at("real")).unwrap();
        let link = |target: &str, name: &str| {
            std::os::unix::fs::symlink(target, at(name)).unwrap();
        };
        link("real", "directory");
        link("directory/../real/file", "one");
        link("one", "two");
        link("circle", "circle");
        link("missing/file", "lost");
        for name in ["real/file", "directory/file", "one", "two", "directory/../two"] {
            assert_eq!(resolved(&at(name)).unwrap(), at("real/file"), "{name}");
        }
        std::fs::write(at("real/file"), "").unwrap();
        assert_eq!(resolved(&at("two")).unwrap(), at("real/file"));
        assert_eq!(resolved(&at("real/..")).unwrap(), root);
        assert_eq!(resolved(&at("circle")).unwrap_err().raw_os_error(), Some(40));
        assert_eq!(resolved(&at("lost")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn an_existing_file_is_never_replaced_not_even_through_a_link() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        write_new(&at("new"), "one", PRIVATE).unwrap();
        assert_eq!(found(&at("new")).unwrap().unwrap().mode() & 0o777, PRIVATE);
        std::os::unix::fs::symlink(at("new"), at("link")).unwrap();
        std::os::unix::fs::symlink(at("nowhere"), at("dangling")).unwrap();
        for taken in ["new", "link", "dangling"] {
            let error = write_new(&at(taken), "two", PRIVATE).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AlreadyExists, "{taken}");
            assert!(found(&at(taken)).unwrap().is_some(), "{taken}");
        }
        assert_eq!(std::fs::read_to_string(at("new")).unwrap(), "one");
        assert!(!at("nowhere").exists());
    }
}
