//! All of it on one machine in one command
