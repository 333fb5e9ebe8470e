//! Makes the Rust types of `proto/weft.proto`, with a compiler written in Rust: no `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/weft.proto");
    let files = protox::compile(["proto/weft.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .type_attribute(".weft.v1.Key", "#[derive(Eq, PartialOrd, Ord)]")
        .type_attribute(".weft.v1.RuleKey", "#[derive(Eq, PartialOrd, Ord)]")
        .type_attribute(".weft.v1.Match", "#[derive(PartialOrd, Ord)]")
        .type_attribute(".weft.v1.MacKey", "#[derive(PartialOrd, Ord)]")
        .type_attribute(".weft.v1.AddressKey", "#[derive(PartialOrd, Ord)]")
        .compile_fds(files)?;
    Ok(())
}
