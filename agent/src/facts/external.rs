//! What does this site add? `facts.d`: JSON, YAML and TOML files, and executables.

use super::{Members, lay_over, members_of};
use crate::config::FactsConfig;
use crate::run::{Ended, Limits, Program, stopper};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::Metadata;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Most that one file may hold or one executable may print: what a whole document may have.
const MOST_BYTES: usize = 256 * 1024;

/// Most files that are looked at.
const MOST_FILES: usize = 256;

/// In order of name; a later file lays its facts over an earlier one's.
pub(super) async fn collect(config: &FactsConfig, failed: &mut BTreeMap<String, String>) -> Members {
    let mut facts = Value::Object(Members::new());
    let mut files: Vec<PathBuf> = match std::fs::read_dir(&config.dir) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).filter(|path| is_meant(path)).collect(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Members::new(),
        Err(e) => {
            failed.insert("facts.d".into(), format!("{}: {e}", config.dir.display()));
            return Members::new();
        }
    };
    if let Err(text) = std::fs::metadata(&config.dir).map_err(|e| e.to_string()).and_then(|m| refuse_writable(&m)) {
        failed.insert("facts.d".into(), format!("{}: {text}", config.dir.display()));
        return Members::new();
    }
    files.sort();
    if files.len() > MOST_FILES {
        failed.insert("facts.d".into(), format!("holds {} files; the first {MOST_FILES} are read", files.len()));
        files.truncate(MOST_FILES);
    }
    for file in files {
        let name = format!("facts.d/{}", file.file_name().unwrap_or_default().to_string_lossy());
        match one(&file, config).await {
            Ok(Value::Object(members)) => lay_over(&mut facts, Value::Object(members)),
            Ok(_) => drop(failed.insert(name, "must hold an object: names and values".into())),
            Err(text) => drop(failed.insert(name, text)),
        }
    }
    members_of(facts)
}

/// Neither hidden files nor what editors and packages leave behind.
fn is_meant(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let left = ["~", ".bak", ".swp", ".tmp", ".dpkg-old", ".dpkg-dist", ".dpkg-new", ".rpmsave", ".rpmnew", ".md"];
    !name.starts_with('.') && !left.iter().any(|end| name.ends_with(end)) && !path.is_dir()
}

async fn one(file: &Path, config: &FactsConfig) -> Result<Value, String> {
    let metadata = std::fs::metadata(file).map_err(|e| e.to_string())?;
    if !metadata.is_file() {
        return Err("is not a file".into());
    }
    refuse_writable(&metadata)?;
    let extension = file.extension().and_then(|e| e.to_str()).unwrap_or_default();
    match extension {
        "json" => serde_json::from_str(&content(file, &metadata)?).map_err(|e| format!("no JSON: {e}")),
        "yaml" | "yml" => serde_norway::from_str(&content(file, &metadata)?).map_err(|e| format!("no YAML: {e}")),
        "toml" => toml::from_str::<Value>(&content(file, &metadata)?).map_err(|e| format!("no TOML: {}", e.message())),
        "txt" => pairs(&content(file, &metadata)?),
        _ if metadata.permissions().mode() & 0o111 != 0 => executable(file, &metadata, config).await,
        _ => {
            Err("neither .json, .yaml, .yml, .toml or .txt, nor executable; rename it, or run `chmod +x` on it".into())
        }
    }
}

fn refuse_writable(metadata: &Metadata) -> Result<(), String> {
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o002 != 0 {
        Err(format!("everybody can write it (mode {mode:03o}); run `chmod o-w` on it"))
    } else {
        Ok(())
    }
}

fn content(file: &Path, metadata: &Metadata) -> Result<String, String> {
    if metadata.len() > MOST_BYTES as u64 {
        return Err(format!("is larger than {MOST_BYTES} bytes"));
    }
    std::fs::read_to_string(file).map_err(|e| e.to_string())
}

async fn executable(file: &Path, metadata: &Metadata, config: &FactsConfig) -> Result<Value, String> {
    let own = rustix::process::geteuid().as_raw();
    if metadata.uid() != 0 && metadata.uid() != own {
        return Err(format!("an executable that belongs to uid {}; run `chown root` on it", metadata.uid()));
    }
    if metadata.permissions().mode() & 0o020 != 0
        && metadata.gid() != 0
        && metadata.gid() != rustix::process::getegid().as_raw()
    {
        return Err("an executable that another group can write; run `chmod g-w` on it".into());
    }
    let limits = Limits { time: config.executable_timeout, output: MOST_BYTES };
    let output = Program::new(file).run(limits, &mut stopper().1).await.map_err(|e| e.to_string())?;
    match output.ended {
        Ended::Exited(0) => {}
        Ended::Exited(code) => return Err(format!("ended with code {code}")),
        Ended::Signalled(signal) => return Err(format!("ended by signal {signal}")),
        Ended::TimedOut | Ended::Stopped => {
            return Err(format!("took longer than {} ms", config.executable_timeout.as_millis()));
        }
    }
    if output.stdout.truncated {
        return Err(format!("printed more than {MOST_BYTES} bytes"));
    }
    let text = String::from_utf8(output.stdout.bytes).map_err(|_| "printed what is no UTF-8".to_owned())?;
    if text.trim_start().starts_with('{') {
        return serde_json::from_str(&text).map_err(|e| format!("printed no JSON: {e}"));
    }
    pairs(&text)
}

/// `name=value` lines; dots in a name make objects, values are texts (as facter takes them).
fn pairs(text: &str) -> Result<Value, String> {
    let mut facts = Value::Object(Members::new());
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (name, value) = line.split_once('=').ok_or("printed neither JSON nor name=value lines")?;
        let mut nested = Value::String(value.trim().to_owned());
        // Depth is bounded by the limits of a document, which are checked later; the nesting here must not overflow the stack.
        let segments: Vec<&str> = name.trim().split('.').collect();
        if segments.len() > muster_protocol::facts::MAX_DEPTH || segments.iter().any(|segment| segment.is_empty()) {
            return Err("a name is nested too deep or has an empty segment".into());
        }
        for segment in segments.into_iter().rev() {
            nested = Value::Object(Members::from_iter([(segment.to_owned(), nested)]));
        }
        lay_over(&mut facts, nested);
    }
    Ok(facts)
}
