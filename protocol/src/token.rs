//! What does a resumption token look like? A text that only brokers can make and read; whoever holds it tells it from a password.
//!
//! A broker gives one in CONNECTED (`muster-token`); it stands for the password as `passcode` of a later CONNECT, at any broker of the cluster.

/// What every token begins with: the version of its form.
pub const PREFIX: &str = "mt1.";
/// The longest token, bytes.
pub const LONGEST: usize = 512;
/// The shortest, bytes: less cannot hold what a token says and its proof. A password may well begin with `mt1.`; none is by chance
/// so long and of these characters only.
pub const SHORTEST: usize = 80;

/// Whether a passcode has the form of a token: [`PREFIX`] and then URL-safe base64 without padding, [`SHORTEST`] to [`LONGEST`]
/// bytes in all. A broker checks it as a token then, never as a password.
pub fn is_token(passcode: &str) -> bool {
    let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (SHORTEST..=LONGEST).contains(&passcode.len())
        && passcode.strip_prefix(PREFIX).is_some_and(|rest| rest.bytes().all(is_base64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_that_begin_alike_are_passwords() {
        let of = |length: usize| format!("{PREFIX}{}", "a_-9Z".repeat(200).split_at(length - PREFIX.len()).0);
        assert!(is_token(&of(SHORTEST)) && is_token(&of(LONGEST)));
        for password in ["", "mt1.", "mt1.secret", &of(SHORTEST - 1), &of(LONGEST + 1), &of(200)[1..]] {
            assert!(!is_token(password), "{password}");
        }
        for other in ["=", "+", "/", ".", " ", "\0", "ä"] {
            assert!(!is_token(&format!("{}{other}", of(200))), "{other:?}");
        }
    }
}
