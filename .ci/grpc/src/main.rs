//! Generates the code of the gRPC transport from its `.proto`. With `--check`, compares it with the
//! files in the repository instead. Run it in the repository's root.

use std::path::Path;
use std::process::ExitCode;

use prost::Message as _;

const FOLDER: &str = "src/transport/grpc";
const PROTO: &str = "gateway_events.v1.proto";
/// The generator's name for the code, and ours.
const GENERATED: &str = "gateway_events.v1.rs";
const CODE: &str = "generated.rs";
const DESCRIPTOR: &str = "descriptor.bin";
const HEADER: &str =
    "//! Messages and service of `gateway_events.v1.proto`. Written by `.ci/generate-grpc`.\n\n";

fn main() -> ExitCode {
    let is_check = std::env::args().nth(1).as_deref() == Some("--check");
    let folder = Path::new(FOLDER);
    let descriptor = protox::compile([folder.join(PROTO)], [folder]).expect("a valid .proto");
    let out = std::env::temp_dir().join(format!("generate-grpc-{}", std::process::id()));
    std::fs::create_dir_all(&out).expect("a temporary folder");
    tonic_prost_build::configure()
        .build_transport(false)
        .bytes(".gateway_events.v1.Event.payload")
        .bytes(".gateway_events.v1.Event.cloud_event")
        .out_dir(&out)
        .compile_fds(descriptor.clone())
        .expect("code");
    let code = std::fs::read_to_string(out.join(GENERATED)).expect("the code");
    std::fs::remove_dir_all(&out).expect("removed");
    let code = format!("{HEADER}{code}").into_bytes();
    let mut is_same = true;
    for (name, content) in [(CODE, code), (DESCRIPTOR, descriptor.encode_to_vec())] {
        let path = folder.join(name);
        if !is_check {
            std::fs::write(&path, content).expect("written");
        } else if std::fs::read(&path).ok() != Some(content) {
            eprintln!("{} is out of date: run .ci/generate-grpc", path.display());
            is_same = false;
        }
    }
    if is_same { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
