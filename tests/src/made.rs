//! What did `musterd init` make? It runs once in the life of a test process for each cluster; tests get copies.

use crate::policy;
use crate::process::{Said, binary, run};
use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The clusters of the tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Cluster `demo`, with the brokers of [`NAMES`].
    Ours,
    /// Another cluster: `elsewhere`, with brokers of the same names.
    OtherCluster,
    /// A cluster that calls itself `demo` too, and has another CA.
    OtherCa,
}

/// The brokers of each cluster; a test uses the first of them, and `stray` as one that is not in the list.
pub const NAMES: &[&str] = &["noc1", "dc1", "dc2", "dc3", "stray"];

/// What `musterd init` made, in memory: path below its folder, mode, bytes.
struct Made {
    folder: PathBuf,
    files: BTreeMap<PathBuf, (u32, Vec<u8>)>,
}

impl Family {
    /// The cluster's name.
    pub fn cluster(self) -> &'static str {
        match self {
            Family::Ours | Family::OtherCa => "demo",
            Family::OtherCluster => "elsewhere",
        }
    }

    /// A file of the whole cluster, such as `ca.pem` and `ca.key`.
    pub fn file(self, name: &str) -> &'static [u8] {
        &self.made().files[Path::new(name)].1
    }

    /// Writes a fresh copy of the folder of one broker; where init's own folder was, for whatever it wrote as an absolute path.
    pub fn copy(self, broker: &str, to: &Path) -> PathBuf {
        let made = self.made();
        let mut count = 0;
        for (below, (mode, bytes)) in &made.files {
            let Ok(below) = below.strip_prefix(broker) else { continue };
            let path = to.join(below);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            fs::write(&path, bytes).expect("a file");
            fs::set_permissions(&path, Permissions::from_mode(*mode)).expect("its mode");
            count += 1;
        }
        assert!(count > 0, "musterd init made nothing for {broker}: {:?}", made.files.keys());
        made.folder.join(broker)
    }

    fn made(self) -> &'static Made {
        static OURS: OnceLock<Made> = OnceLock::new();
        static OTHER_CLUSTER: OnceLock<Made> = OnceLock::new();
        static OTHER_CA: OnceLock<Made> = OnceLock::new();
        let made = match self {
            Family::Ours => &OURS,
            Family::OtherCluster => &OTHER_CLUSTER,
            Family::OtherCa => &OTHER_CA,
        };
        made.get_or_init(|| make(self.cluster()))
    }
}

fn make(cluster: &str) -> Made {
    let parent = tempfile::tempdir().expect("a temporary folder");
    let folder = parent.path().join("made");
    let said = init(&folder, cluster, NAMES);
    assert_eq!(said.code, 0, "musterd init: {said:?}");
    let mut files = BTreeMap::new();
    read_all(&folder, &folder, &mut files);
    Made { folder, files }
}

/// Runs the real `musterd init` into a folder.
pub fn init(folder: &Path, cluster: &str, brokers: &[&str]) -> Said {
    let mut command = Command::new(binary("musterd"));
    command.args(["init", "--cluster", cluster, "--dir"]).arg(folder);
    for broker in brokers {
        command.args(["--broker", broker]);
    }
    run(&mut command)
}

/// The PHC string of the password of the test policy.
pub fn phc() -> &'static str {
    static PHC: OnceLock<String> = OnceLock::new();
    PHC.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let password = folder.path().join("password");
        fs::write(&password, policy::PASSWORD).expect("the password file");
        fs::set_permissions(&password, Permissions::from_mode(0o600)).expect("its mode");
        let said = run(Command::new(binary("musterd")).arg("passwd").arg("--file").arg(&password));
        assert_eq!(said.code, 0, "musterd passwd: {said:?}");
        said.stdout.trim().to_owned()
    })
}

fn read_all(root: &Path, folder: &Path, files: &mut BTreeMap<PathBuf, (u32, Vec<u8>)>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let entry = entry.expect("an entry");
        let path = entry.path();
        if path.is_dir() {
            read_all(root, &path, files);
        } else {
            let mode = entry.metadata().expect("metadata").permissions().mode() & 0o777;
            let below = path.strip_prefix(root).expect("below its root").to_owned();
            files.insert(below, (mode, fs::read(&path).expect("a file")));
        }
    }
}
