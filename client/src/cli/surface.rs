//! What does the command line speak to? Output, errors, questions and Ctrl-C, so that tests can stand in for a terminal.

use super::password;
use super::progress::Progress;
use super::text;
use secrecy::SecretString;
use std::io::{self, BufRead, IsTerminal, Write};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

/// Where lines come from that answer questions.
type Lines = Box<dyn FnMut() -> oneshot::Receiver<String> + Send>;

/// Where secrets come from. None of them is ever shown.
type Secrets = Box<dyn FnMut(Secret<'_>) -> io::Result<SecretString> + Send>;

/// How a secret is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Secret<'a> {
    /// On the terminal, after this prompt.
    Typed(&'a str),
    /// As the first line of standard input.
    Piped,
}

/// Both ends of a conversation with an operator, or with the script that runs us.
pub(crate) struct Surface {
    out: Box<dyn Write + Send>,
    err: Box<dyn Write + Send>,
    lines: Lines,
    secrets: Secrets,
    interrupts: Interrupts,
    pub(crate) progress: Progress,
    /// Whether somebody is there to answer questions.
    pub(crate) asks: bool,
    /// Whether results may be coloured.
    pub(crate) colour: bool,
}

enum Interrupts {
    /// Nothing is under way yet: Ctrl-C ends the program as it does any other.
    Untouched,
    Signal(Signal),
    #[cfg_attr(not(test), allow(dead_code, reason = "tests press Ctrl-C through a channel"))]
    Scripted(mpsc::Receiver<()>),
}

impl Surface {
    /// Of this process.
    pub(crate) fn of_process() -> Surface {
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        Surface {
            out: Box::new(io::BufWriter::new(io::stdout())),
            err: Box::new(io::stderr()),
            lines: Box::new(line_of_stdin),
            secrets: Box::new(secret_of_process),
            interrupts: Interrupts::Untouched,
            progress: Progress::new(io::stderr().is_terminal() && !dumb),
            asks: io::stdin().is_terminal() && io::stderr().is_terminal(),
            colour: io::stdout().is_terminal() && !no_colour && !dumb,
        }
    }

    /// Writes results. Everything in `text` that others sent must be clean already.
    pub(crate) fn out(&mut self, text: &str) -> io::Result<()> {
        let Surface { out, progress, .. } = self;
        progress.suspend(|| out.write_all(text.as_bytes()))
    }

    /// Makes results arrive.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        let Surface { out, progress, .. } = self;
        progress.suspend(|| out.flush())
    }

    /// Tells the operator something beside the results; cleaned here. A closed stderr is no reason to stop.
    pub(crate) fn note(&mut self, text: &str) {
        let lines: String = text::lines(text).into_iter().map(|line| line + "\n").collect();
        let Surface { err, progress, .. } = self;
        progress.suspend(|| err.write_all(lines.as_bytes()).and_then(|()| err.flush())).unwrap_or_default();
    }

    /// Puts a question; the answer comes, without line feed, when it comes. Closed input answers nothing.
    pub(crate) fn question(&mut self, prompt: &str) -> oneshot::Receiver<String> {
        let Surface { out, err, progress, .. } = self;
        progress
            .suspend(|| {
                out.flush().and_then(|()| err.write_all(text::clean(prompt).as_bytes())).and_then(|()| err.flush())
            })
            .unwrap_or_default();
        (self.lines)()
    }

    /// Puts a question and waits. Ctrl-C and closed input are `None`.
    pub(crate) async fn ask(&mut self, prompt: &str) -> Option<String> {
        let answer = self.question(prompt);
        tokio::select! {
            answer = answer => answer.ok(),
            () = self.interrupted() => None,
        }
    }

    /// Waits for a secret. Blocks: to be called before there is a connection that wants heart-beats.
    pub(crate) fn secret(&mut self, how: Secret<'_>) -> io::Result<SecretString> {
        (self.secrets)(how)
    }

    /// Waits for Ctrl-C; from the first call on it no longer ends the program. May be dropped without missing one.
    pub(crate) async fn interrupted(&mut self) {
        if let Interrupts::Untouched = self.interrupts {
            match signal(SignalKind::interrupt()) {
                Ok(signal) => self.interrupts = Interrupts::Signal(signal),
                Err(_) => return std::future::pending().await,
            }
        }
        let pressed = match &mut self.interrupts {
            Interrupts::Signal(signal) => signal.recv().await,
            Interrupts::Scripted(presses) => presses.recv().await,
            Interrupts::Untouched => None,
        };
        if pressed.is_none() {
            std::future::pending::<()>().await;
        }
    }
}

/// In a thread of its own, which may stay behind when the program ends: a read of a terminal can't be given up.
fn line_of_stdin() -> oneshot::Receiver<String> {
    let (sender, receiver) = oneshot::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        if io::stdin().lock().read_line(&mut line).is_ok_and(|bytes| bytes > 0) {
            let _ = sender.send(line.trim().to_owned());
        }
    });
    receiver
}

fn secret_of_process(how: Secret<'_>) -> io::Result<SecretString> {
    match how {
        Secret::Typed(prompt) => rpassword::prompt_password(text::clean(prompt)).map(SecretString::from),
        Secret::Piped if io::stdin().is_terminal() => {
            Err(io::Error::other("it is a terminal, which would show the password; leave the option out to be asked"))
        }
        Secret::Piped => password::first_line(io::stdin()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// What was written, for a test to read.
    #[derive(Clone, Default)]
    pub(crate) struct Written(Arc<Mutex<Vec<u8>>>);

    impl Written {
        pub(crate) fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A surface whose questions get these answers (none: nobody is there; `^C`: Ctrl-C is pressed), its output, its notes, and
    /// its Ctrl-C.
    pub(crate) fn scripted(answers: &[&str]) -> (Surface, Written, Written, mpsc::Sender<()>) {
        let (out, err) = (Written::default(), Written::default());
        let (press, presses) = mpsc::channel(4);
        let mut answers: std::collections::VecDeque<String> = answers.iter().map(|a| (*a).to_owned()).collect();
        let (pressing, mut unanswered) = (press.clone(), Vec::new());
        let surface = Surface {
            out: Box::new(out.clone()),
            err: Box::new(err.clone()),
            asks: !answers.is_empty(),
            lines: Box::new(move || {
                let (sender, receiver) = oneshot::channel();
                match answers.pop_front() {
                    Some(answer) if answer == "^C" => {
                        pressing.try_send(()).unwrap();
                        unanswered.push(sender);
                    }
                    Some(answer) => sender.send(answer).unwrap(),
                    None => {}
                }
                receiver
            }),
            secrets: Box::new(|_| Err(io::Error::other("nobody types"))),
            interrupts: Interrupts::Scripted(presses),
            progress: Progress::new(false),
            colour: false,
        };
        (surface, out, err, press)
    }

    impl Surface {
        /// The same with these secrets, each with the prompt that it must be asked by; `-` is standard input.
        pub(crate) fn with_secrets(mut self, secrets: &[(&str, &str)]) -> Surface {
            let own = |&(prompt, secret): &(&str, &str)| (prompt.to_owned(), secret.to_owned());
            let mut secrets: std::collections::VecDeque<(String, String)> = secrets.iter().map(own).collect();
            self.secrets = Box::new(move |how| {
                let (prompt, secret) = secrets.pop_front().expect("nobody asks so often");
                assert_eq!(how, if prompt == "-" { Secret::Piped } else { Secret::Typed(&prompt) });
                Ok(SecretString::from(secret))
            });
            self
        }
    }
}
