//! Who runs a command that changes the database directly, for the audit log.

use crate::http::tls;
use crate::store::Principal;

/// The operating system's user, on this host.
pub(super) fn principal() -> Principal {
    Principal::local(&user(), &tls::hostname().unwrap_or_default())
}

/// The name of the effective user, or its number if the password file does not name it. Environment
/// variables are not used: the user can set them.
#[cfg(unix)]
fn user() -> String {
    let uid = rustix::process::geteuid().as_raw();
    let passwd = std::fs::read("/etc/passwd").unwrap_or_default();
    named(uid, &String::from_utf8_lossy(&passwd)).unwrap_or_else(|| format!("uid {uid}"))
}

#[cfg(not(unix))]
fn user() -> String {
    String::new()
}

/// The name of a user in a password file (passwd(5)).
#[cfg(unix)]
fn named(uid: u32, passwd: &str) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_named_by_the_password_file() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\n\n:x:7\nbroken\nops:x:1000:1000::/:/bin/sh\n";
        assert_eq!(named(0, passwd).as_deref(), Some("root"));
        assert_eq!(named(1000, passwd).as_deref(), Some("ops"));
        assert_eq!(named(7, passwd), None);
        assert!(!user().is_empty());
    }
}
