//! Certificate files that are rotated while the service runs.

use super::*;

fn write(directory: &Path, certificate: &str, key: &str) {
    for (file, text) in [("certificate.pem", certificate), ("private-key.pem", key)] {
        let path = directory.join(file);
        std::fs::write(&path, text).unwrap();
        // Some tools restore the modification time.
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
    }
}

fn pair(name: &str) -> (String, String, Vec<u8>) {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem(), made.cert.der().to_vec())
}

#[test]
fn rotated_files_are_noticed_by_their_contents() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let in_use = |certificates: &Certificates| certificates.current.0.load().cert[0].to_vec();
    // Names of the same length, so that the files have about the same size.
    let (first, first_key, first_der) = pair("one.example");
    let (second, second_key, second_der) = pair("two.example");
    write(directory.path(), &first, &first_key);
    let certificates = Certificates::open(at("certificate.pem"), at("private-key.pem")).unwrap();
    certificates.reload_if_changed();
    assert_eq!(in_use(&certificates), first_der);
    // Half of a rotation: the old pair stays in use.
    write(directory.path(), &second, &first_key);
    certificates.reload_if_changed();
    assert_eq!(in_use(&certificates), first_der);
    write(directory.path(), &second, &second_key);
    certificates.reload_if_changed();
    assert_eq!(in_use(&certificates), second_der);
    // Missing files change nothing.
    std::fs::remove_file(at("private-key.pem")).unwrap();
    certificates.reload_if_changed();
    certificates.reload();
    assert_eq!(in_use(&certificates), second_der);
}
