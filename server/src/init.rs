//! x
/// x
#[derive(Debug, clap::Args)]
pub struct InitOptions {}
/// x
pub fn init(_: &InitOptions) -> Result<String, std::io::Error> { Ok(String::new()) }
