//! What the produce path allocates: a process of its own, since it counts with its own allocator.

#[cfg(test)]
mod counting;
