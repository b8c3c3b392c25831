//! How does the agent run a program? In its own process group, without standard input, within limits of time and output.

use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

/// Between TERM and KILL.
pub const GRACE: Duration = Duration::from_secs(2);

/// Where programs are looked for when only a name is given, and what children get as PATH.
pub const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/puppetlabs/bin";

/// How long output is still read after the program has ended: a daemon it left behind may hold the pipe for ever.
const AFTER_END: Duration = Duration::from_millis(500);

/// A program to run.
#[derive(Debug, Clone)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
    search_path: OsString,
    keeps_background: bool,
}

/// Bounds on one run.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// From start to TERM.
    pub time: Duration,
    /// Bytes that are kept of each output stream.
    pub output: usize,
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this code.
    Exited(i32),
    /// By a signal that the agent did not send.
    Signalled(i32),
    /// At its time limit; its whole group was stopped.
    TimedOut,
    /// Told to stop; its whole group was stopped.
    Stopped,
}

/// What a program printed, and how it ended.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub ended: Ended,
    /// Standard output.
    pub stdout: Captured,
    /// Standard error.
    pub stderr: Captured,
    /// How long it ran.
    pub took: Duration,
}

/// The beginning of an output stream.
#[derive(Debug, Default)]
pub struct Captured {
    /// At most the limit.
    pub bytes: Vec<u8>,
    /// Whether there was more.
    pub truncated: bool,
}

/// A program that could not be run.
#[derive(Debug, thiserror::Error)]
#[error("cannot run {program}: {cause}")]
pub struct RunError {
    /// Which program.
    pub program: String,
    /// What the system said.
    pub cause: io::Error,
}

/// Tells a run, or a whole action, to stop.
#[derive(Debug, Clone)]
pub struct Stop(watch::Receiver<bool>);

/// The other end of a [`Stop`]. Dropping it stops nothing.
#[derive(Debug)]
pub struct Stopper(watch::Sender<bool>);

/// A pair of them.
pub fn stopper() -> (Stopper, Stop) {
    let (sender, receiver) = watch::channel(false);
    (Stopper(sender), Stop(receiver))
}

impl Stopper {
    /// Tells it to stop; it stays told.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Stop {
    /// Whether it was told.
    pub fn is_stopped(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until it is told; for ever if nobody can tell any more.
    pub async fn stopped(&mut self) {
        if self.0.wait_for(|stop| *stop).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Program {
    /// A program by absolute path.
    pub fn new(path: impl Into<PathBuf>) -> Program {
        Program { path: path.into(), arguments: Vec::new(), search_path: SEARCH_PATH.into(), keeps_background: false }
    }

    /// More arguments.
    pub fn arguments<A: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = A>) -> Program {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Another PATH for the child.
    pub fn search_path(mut self, path: impl Into<OsString>) -> Program {
        self.search_path = path.into();
        self
    }

    /// Processes that it leaves behind are meant to stay (an init script starts its daemon so). Otherwise they are killed at its end.
    pub fn keeps_background(mut self) -> Program {
        self.keeps_background = true;
        self
    }

    /// Where the program is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs it to its end, or to its limit. Dropping the future kills the group.
    pub async fn run(&self, limits: Limits, stop: &mut Stop) -> Result<Output, RunError> {
        let failed = |cause| RunError { program: self.path.display().to_string(), cause };
        let started = Instant::now();
        let mut child = self.command().spawn().map_err(failed)?;
        let group = Group::of(&child).ok_or_else(|| failed(io::Error::other("it has no process id")))?;
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let mut stdout = Captured::default();
        let mut stderr = Captured::default();
        let end = {
            let reading = async {
                tokio::join!(capture(out, limits.output, &mut stdout), capture(err, limits.output, &mut stderr))
            };
            tokio::pin!(reading);
            let mut read = false;
            let ending = end_of(&mut child, &group, limits.time, stop);
            tokio::pin!(ending);
            let end = loop {
                tokio::select! {
                    end = &mut ending => break end.map_err(failed)?,
                    _ = &mut reading, if !read => read = true,
                }
            };
            if !(self.keeps_background && matches!(end, Ended::Exited(_))) {
                group.signal(Signal::KILL);
            }
            if !read {
                let _ = timeout(AFTER_END, reading).await;
            }
            end
        };
        group.disarm();
        Ok(Output { ended: end, stdout, stderr, took: started.elapsed() })
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command
            .args(&self.arguments)
            .env_clear()
            .env("PATH", &self.search_path)
            .env("LC_ALL", "C")
            .env("HOME", "/")
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        command
    }
}

impl Captured {
    /// As text, what is no UTF-8 replaced; a cut is marked.
    pub fn text(&self) -> String {
        let mut text = String::from_utf8_lossy(&self.bytes).into_owned();
        if self.truncated {
            text.push_str("\n[… truncated]");
        }
        text
    }
}

/// A process group that is killed when its owner goes away before it has ended.
#[derive(Debug)]
struct Group {
    id: Pid,
    armed: bool,
}

impl Group {
    fn of(child: &Child) -> Option<Group> {
        let id = i32::try_from(child.id()?).ok().and_then(Pid::from_raw)?;
        Some(Group { id, armed: true })
    }

    /// A group lives as long as any member: nobody else can get its number before.
    fn signal(&self, signal: Signal) {
        let _ = kill_process_group(self.id, signal);
    }

    fn is_gone(&self) -> bool {
        test_kill_process_group(self.id).is_err()
    }

    fn disarm(mut self) {
        self.armed = false;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if self.armed {
            self.signal(Signal::KILL);
        }
    }
}

async fn end_of(child: &mut Child, group: &Group, time: Duration, stop: &mut Stop) -> io::Result<Ended> {
    let why = tokio::select! {
        // First: a program that has ended has ended, whatever else is true by now.
        biased;
        status = child.wait() => return Ok(ended(status?)),
        () = stop.stopped() => Ended::Stopped,
        () = sleep(time) => Ended::TimedOut,
    };
    group.signal(Signal::TERM);
    let orderly = async {
        let _ = child.wait().await;
        // The rest of the group has its two seconds as well; there is no event for the end of a group.
        while !group.is_gone() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    if timeout(GRACE, orderly).await.is_err() {
        group.signal(Signal::KILL);
        // Bounded: a process that hangs in the kernel does not even take KILL.
        let _ = timeout(GRACE, child.wait()).await;
    }
    Ok(why)
}

fn ended(status: ExitStatus) -> Ended {
    match (status.code(), status.signal()) {
        (Some(code), _) => Ended::Exited(code),
        (None, signal) => Ended::Signalled(signal.unwrap_or(0)),
    }
}

/// Keeps the first `most` bytes and reads the rest away, so that the program never blocks on a full pipe.
async fn capture(stream: Option<impl AsyncRead + Unpin>, most: usize, into: &mut Captured) {
    let Some(mut stream) = stream else { return };
    let mut buffer = vec![0; 8192];
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(count) => {
                let room = most - into.bytes.len();
                into.bytes.extend_from_slice(&buffer[..count.min(room)]);
                into.truncated |= count > room;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FINE: Limits = Limits { time: Duration::from_secs(20), output: 64 * 1024 };

    fn shell(script: &str) -> Program {
        Program::new("/bin/sh").arguments(["-c", script])
    }

    async fn run(script: &str, limits: Limits) -> Output {
        shell(script).run(limits, &mut stopper().1).await.expect("it runs")
    }

    fn short(time: u64) -> Limits {
        Limits { time: Duration::from_millis(time), ..FINE }
    }

    fn is_alive(pid: &str) -> bool {
        // A zombie that nobody reaps yet is dead for our purpose.
        std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()))
            .is_ok_and(|s| !s.rsplit(')').next().unwrap_or("").trim_start().starts_with('Z'))
    }

    async fn until(what: &str, condition: impl Fn() -> bool) {
        let waiting = async {
            while !condition() {
                tokio::task::yield_now().await;
            }
        };
        assert!(timeout(Duration::from_secs(10), waiting).await.is_ok(), "waited for: {what}");
    }

    #[tokio::test]
    async fn output_and_exit_code_come_back() {
        let output = run("echo out; echo err >&2; exit 3", FINE).await;
        assert_eq!(output.ended, Ended::Exited(3));
        assert_eq!((output.stdout.text().as_str(), output.stderr.text().as_str()), ("out\n", "err\n"));
        assert_eq!(run("kill -9 $$", FINE).await.ended, Ended::Signalled(9));
        let missing = Program::new("/no/such").run(FINE, &mut stopper().1).await.expect_err("not there").to_string();
        assert!(missing.contains("/no/such"), "{missing}");
    }

    #[tokio::test]
    async fn standard_input_is_closed_and_the_environment_is_minimal() {
        let output = run("cat; env", FINE).await;
        let text = output.stdout.text();
        assert_eq!(output.ended, Ended::Exited(0));
        assert!(text.contains("LC_ALL=C\n"), "{text}");
        let names: Vec<&str> = text.lines().filter_map(|l| l.split_once('=').map(|p| p.0)).collect();
        assert!(names.iter().all(|n| ["PATH", "LC_ALL", "HOME", "PWD", "OLDPWD", "SHLVL", "_"].contains(n)), "{text}");
    }

    #[tokio::test]
    async fn too_much_output_is_cut_and_marked_and_the_program_ends_all_the_same() {
        let limits = Limits { output: 1000, ..FINE };
        let output = run("head -c 1000000 /dev/zero | tr '\\0' x; echo done >&2", limits).await;
        assert_eq!(output.ended, Ended::Exited(0));
        assert_eq!(output.stdout.bytes.len(), 1000);
        assert!(output.stdout.truncated && output.stdout.text().ends_with("[… truncated]"));
        assert_eq!(output.stderr.text(), "done\n");
    }

    #[tokio::test]
    async fn at_the_time_limit_grandchildren_die_too() {
        let output = run("sleep 600 & echo $!; wait", short(300)).await;
        assert_eq!(output.ended, Ended::TimedOut);
        let grandchild = output.stdout.text();
        until("the grandchild is dead", || !is_alive(&grandchild)).await;
    }

    #[tokio::test]
    async fn who_ignores_term_is_killed_after_two_seconds() {
        let output = run(
            "trap '' TERM; (trap '' TERM; while :; do sleep 600; done) & echo $!; while :; do sleep 600; done",
            short(200),
        )
        .await;
        assert_eq!(output.ended, Ended::TimedOut);
        assert!(output.took >= GRACE, "{:?}", output.took);
        let grandchild = output.stdout.text();
        until("the grandchild is dead", || !is_alive(&grandchild)).await;
    }

    #[tokio::test]
    async fn what_is_left_behind_dies_unless_it_is_meant_to_stay() {
        let script = "sleep 600 >/dev/null 2>&1 & echo $!";
        let left = run(script, FINE).await.stdout.text();
        until("the left one is dead", || !is_alive(&left)).await;
        let kept = shell(script).keeps_background().run(FINE, &mut stopper().1).await.expect("it runs").stdout.text();
        assert!(is_alive(&kept));
        let pid = Pid::from_raw(kept.trim().parse().expect("a pid")).expect("a pid");
        rustix::process::kill_process(pid, Signal::KILL).expect("killed");
    }

    #[tokio::test]
    async fn a_pipe_held_by_a_daemon_does_not_hold_the_answer() {
        let output =
            shell("sleep 600 & echo $!").keeps_background().run(FINE, &mut stopper().1).await.expect("it runs");
        assert_eq!(output.ended, Ended::Exited(0));
        assert!(output.took < Duration::from_secs(10));
        let pid = Pid::from_raw(output.stdout.text().trim().parse().expect("a pid")).expect("a pid");
        rustix::process::kill_process(pid, Signal::KILL).expect("killed");
    }

    #[tokio::test]
    async fn told_to_stop_and_dropped_runs_end_their_group() {
        let (stopper, mut stop) = stopper();
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("pid");
        let program = shell(&format!("sleep 600 & echo $! > {}; wait", file.display()));
        let written = || std::fs::read_to_string(&file).is_ok_and(|t| t.ends_with('\n'));
        let (output, ()) = tokio::join!(program.run(FINE, &mut stop), async {
            until("it runs", written).await;
            stopper.stop();
        });
        assert_eq!(output.expect("it ran").ended, Ended::Stopped);
        std::fs::remove_file(&file).expect("removed");
        let program = program.clone();
        let task = tokio::spawn(async move { program.run(FINE, &mut super::stopper().1).await.map(|_| ()) });
        until("it runs again", written).await;
        let pid = std::fs::read_to_string(&file).expect("read");
        task.abort();
        until("the grandchild is dead", || !is_alive(&pid)).await;
    }
}
