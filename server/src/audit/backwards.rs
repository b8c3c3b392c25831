//! What stands at the end of a file? Its lines, the last one first, read in blocks: what is newest costs least.

use super::chain::MAX_LINE;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Bytes that are read at once.
const BLOCK: u64 = 64 * 1024;

/// The lines of a file of an audit log, the last one first.
#[derive(Debug)]
pub(super) struct Backwards {
    file: File,
    /// What stands before is still to be read.
    at: u64,
    /// What follows there, as far as it was not given out.
    held: Vec<u8>,
    read: u64,
}

impl Backwards {
    /// All lines, or those from before the one of this number.
    pub(super) fn open(path: &Path, before: Option<u64>) -> io::Result<Backwards> {
        let mut file = File::open(path)?;
        let size = file.metadata()?.len();
        let at = match before {
            None => size,
            Some(before) => end_before(&mut file, size, before)?,
        };
        Ok(Backwards { file, at, held: Vec::new(), read: 0 })
    }

    /// Which file it is, whatever its name.
    pub(super) fn identity(&self) -> io::Result<(u64, u64)> {
        self.file.metadata().map(|file| (file.dev(), file.ino()))
    }

    /// Bytes read so far.
    pub(super) fn read(&self) -> u64 {
        self.read
    }

    /// The line before, without its newline. One that is longer than a line can be comes in parts, which are no lines.
    pub(super) fn next_line(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(newline) = self.held.iter().rposition(|byte| *byte == b'\n') {
                let line = self.held.split_off(newline + 1);
                self.held.pop();
                if !line.is_empty() {
                    return Ok(Some(line));
                }
                continue;
            }
            if self.at == 0 {
                return Ok(Some(std::mem::take(&mut self.held)).filter(|line| !line.is_empty()));
            }
            if self.held.len() > MAX_LINE {
                self.held.clear();
            }
            let from = self.at.saturating_sub(BLOCK);
            let mut block = Vec::new();
            self.file.seek(SeekFrom::Start(from))?;
            (&mut self.file).take(self.at - from).read_to_end(&mut block)?;
            if block.is_empty() {
                // It was cut off meanwhile.
                self.at = 0;
                continue;
            }
            self.read += block.len() as u64;
            block.append(&mut self.held);
            (self.held, self.at) = (block, from);
        }
    }
}

/// Where the lines end whose numbers are lower: they rise through the file.
fn end_before(file: &mut File, size: u64, before: u64) -> io::Result<u64> {
    // Lines that begin before `low` are lower; the first that is not begins before `high`, if there is one.
    let (mut low, mut high) = (0, size);
    while high - low > BLOCK {
        let middle = low + (high - low) / 2;
        match line_after(file, middle, high)? {
            Some((begin, number)) if number < before => low = begin,
            _ => high = middle,
        }
    }
    file.seek(SeekFrom::Start(low))?;
    let mut reader = BufReader::new(&mut *file);
    loop {
        let mut line = Vec::new();
        let length = (&mut reader).take(MAX_LINE as u64).read_until(b'\n', &mut line)?;
        if length == 0 || number_of(&line).is_some_and(|number| number >= before) {
            return Ok(low);
        }
        low += length as u64;
    }
}

/// The first line that begins after `from` and before `until`, by its begin and its number.
fn line_after(file: &mut File, from: u64, until: u64) -> io::Result<Option<(u64, u64)>> {
    file.seek(SeekFrom::Start(from))?;
    let mut reader = BufReader::new(&mut *file);
    let mut line = Vec::new();
    let mut begin = from + (&mut reader).take(MAX_LINE as u64).read_until(b'\n', &mut line)? as u64;
    while begin < until {
        line.clear();
        let length = (&mut reader).take(MAX_LINE as u64).read_until(b'\n', &mut line)?;
        if length == 0 {
            return Ok(None);
        }
        if let Some(number) = number_of(&line) {
            return Ok(Some((begin, number)));
        }
        begin += length as u64;
    }
    Ok(None)
}

/// The number that a line begins with.
fn number_of(line: &[u8]) -> Option<u64> {
    let rest = line.strip_prefix(br#"{"n":"#)?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::PathBuf;

    fn file_of(text: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        std::fs::write(&path, text).unwrap();
        (folder, path)
    }

    fn all(path: &Path, before: Option<u64>) -> Vec<Vec<u8>> {
        let mut lines = Backwards::open(path, before).unwrap();
        std::iter::from_fn(|| lines.next_line().unwrap()).collect()
    }

    proptest! {
        #[test]
        fn the_lines_are_those_of_the_file(
            lengths in prop::collection::vec(prop_oneof![0usize..40, 60_000..70_000usize], 0..8), ends in any::<bool>(),
        ) {
            let lines: Vec<Vec<u8>> = (b'a'..).zip(&lengths).map(|(letter, length)| vec![letter; *length]).collect();
            let mut text = lines.join(&b'\n');
            if ends {
                text.push(b'\n');
            }
            let (_folder, path) = file_of(&text);
            let mut expected: Vec<Vec<u8>> = lines.into_iter().filter(|line| !line.is_empty()).collect();
            expected.reverse();
            prop_assert_eq!(all(&path, None), expected);
        }

        #[test]
        fn lines_from_before_a_number_are_found_wherever_it_is(
            lengths in prop::collection::vec(0usize..9_000, 1..60), first in 1u64..1000, place in any::<prop::sample::Index>(), junk in any::<prop::sample::Index>(),
        ) {
            let mut lines: Vec<String> =
                (first..).zip(&lengths).map(|(n, length)| format!("{{\"n\":{n},\"x\":\"{}\"}}", "x".repeat(*length))).collect();
            let before = first + place.index(lines.len() + 2) as u64;
            let mut expected: Vec<Vec<u8>> =
                (first..).zip(&lines).take_while(|(n, _)| *n < before).map(|(_, line)| line.clone().into_bytes()).collect();
            expected.reverse();
            lines.insert(junk.index(lines.len() + 1), "junk".into());
            let (_folder, path) = file_of((lines.join("\n") + "\n").as_bytes());
            let mut found = all(&path, Some(before));
            found.retain(|line| line != b"junk");
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn what_is_too_long_is_no_line_and_hides_none() {
        let long = vec![b'x'; 3 * MAX_LINE];
        let text = [&b"first\n"[..], &long, b"\nlast\n"].concat();
        let (_folder, path) = file_of(&text);
        let lines = all(&path, None);
        assert_eq!((&lines[0][..], &lines[lines.len() - 1][..]), (&b"last"[..], &b"first"[..]));
        assert!(lines[1..lines.len() - 1].iter().all(|part| part.len() < long.len()));
    }

    #[test]
    fn the_end_of_a_large_file_costs_a_block() {
        let text = "0123456789abcde\n".repeat(100_000);
        let (_folder, path) = file_of(text.as_bytes());
        let mut lines = Backwards::open(&path, None).unwrap();
        lines.next_line().unwrap();
        assert_eq!(lines.read(), BLOCK);
    }
}
