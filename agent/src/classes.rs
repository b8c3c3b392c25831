//! Which roles does this node have? Puppet's classes.txt and `classes.d`.

use crate::config::ClassesConfig;
use muster_protocol::facts::MAX_NAME;
use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Most classes that a document may have.
const MOST: usize = 1024;
const MOST_BYTES: u64 = 256 * 1024;

/// All classes; files that cannot be used are named in `failed`.
pub(crate) fn collect(config: &ClassesConfig, failed: &mut BTreeMap<String, String>) -> BTreeSet<String> {
    let mut files: Vec<PathBuf> = config.files.clone();
    match std::fs::read_dir(&config.dir) {
        Ok(entries) => files.extend(entries.flatten().map(|e| e.path()).filter(|path| is_meant(path))),
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        Err(e) => drop(failed.insert("classes.d".into(), format!("{}: {e}", config.dir.display()))),
    }
    let mut classes = BTreeSet::new();
    for file in files {
        match content(&file) {
            Ok(Some(text)) => classes.extend(lines(&text)),
            Ok(None) => {}
            Err(text) => {
                let name = file.file_name().unwrap_or_default().to_string_lossy();
                failed.insert(format!("classes/{name}"), text);
            }
        }
    }
    if classes.len() > MOST {
        failed.insert("classes".into(), format!("{} classes; the first {MOST} are published", classes.len()));
        classes = classes.into_iter().take(MOST).collect();
    }
    classes
}

fn is_meant(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    !name.starts_with('.') && !name.ends_with('~') && path.is_file()
}

fn content(file: &Path) -> Result<Option<String>, String> {
    let metadata = match std::fs::metadata(file) {
        Ok(metadata) => metadata,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e.to_string()),
    };
    if !metadata.is_file() || metadata.len() > MOST_BYTES {
        return Err(format!("must be a file of at most {MOST_BYTES} bytes"));
    }
    if metadata.permissions().mode() & 0o002 != 0 {
        return Err("everybody can write it; run `chmod o-w` on it".into());
    }
    std::fs::read_to_string(file).map(Some).map_err(|e| e.to_string())
}

fn lines(text: &str) -> impl Iterator<Item = String> {
    let words = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    words
        .filter(|class| !class.is_empty() && class.len() <= MAX_NAME && !class.chars().any(char::is_control))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_come_from_files_and_folder() {
        let dir = tempfile::tempdir().expect("a folder");
        let puppet = dir.path().join("classes.txt");
        let folder = dir.path().join("classes.d");
        std::fs::create_dir(&folder).expect("made");
        std::fs::write(&puppet, "settings\nprofile::nginx\n\n").expect("written");
        std::fs::write(folder.join("roles"), "# of this site\nwebserver # front\ndb\n").expect("written");
        std::fs::write(folder.join(".hidden"), "no\n").expect("written");
        let open = folder.join("open");
        std::fs::write(&open, "evil\n").expect("written");
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o666)).expect("mode");
        let mut failed = BTreeMap::new();
        let config = ClassesConfig { files: vec![puppet, dir.path().join("missing")], dir: folder };
        let classes = collect(&config, &mut failed);
        assert_eq!(classes.into_iter().collect::<Vec<_>>(), ["db", "profile::nginx", "settings", "webserver"]);
        assert_eq!(failed.keys().collect::<Vec<_>>(), ["classes/open"]);
    }
}
