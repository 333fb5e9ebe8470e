//! The only unsafe room: ioctls, descriptors, namespaces, batched I/O, vectorised sums
