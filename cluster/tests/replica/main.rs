//! The data plane's cores, driven from outside as an ingestion actor or a simulator drives them.

#[cfg(test)]
mod leader;
