//! A spoke that offers a project folder: fs.* and bash.run.
