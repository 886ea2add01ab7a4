//! The checked-in code is what the contract generates.

use std::fs;
use std::path::Path;

use prost::Message as _;

#[test]
fn the_generated_code_matches_the_contract() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let fds = protox::Compiler::new([here.join("../../proto")])
        .expect("the proto directory is there")
        .include_source_info(true)
        .include_imports(true)
        .open_file("hatchery/v1/agent.proto")
        .expect("the contract compiles")
        .file_descriptor_set();
    let out = tempfile::tempdir().expect("a scratch directory");
    let mut bare = fds.clone();
    for file in &mut bare.file {
        file.source_code_info = None;
    }
    fs::write(out.path().join("descriptor.bin"), bare.encode_to_vec())
        .expect("the scratch directory takes a file");
    tonic_prost_build::configure().out_dir(out.path()).compile_fds(fds).expect("code is generated");

    for name in ["hatchery.v1.rs", "descriptor.bin"] {
        let checked_in = here.join("src/gen").join(name);
        let fresh = fs::read(out.path().join(name)).expect("the generator wrote it");
        if std::env::var_os("HATCHERY_REGENERATE").is_some() {
            fs::write(&checked_in, &fresh).expect("the source tree is writable");
        }
        let old = fs::read(&checked_in).unwrap_or_default();
        assert!(old == fresh, "{name} is out of date: run HATCHERY_REGENERATE=1 cargo test -p wire");
    }
}
