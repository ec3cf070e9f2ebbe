//! Replaced whole or not at all; a damaged file is refused with its path and left as it is.

use super::*;
use crate::envelope::EnvelopeError;

#[test]
fn what_was_saved_is_loaded() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lun0.pr");
    assert_eq!(load(&path).unwrap(), None);
    for lost in [true, false] {
        let image = Image { aptpl: true, lost, ..Image::default() };
        save(&path, &image).unwrap();
        assert_eq!(load(&path).unwrap(), Some(image));
    }
    let left = std::fs::read_dir(directory.path()).unwrap().count();
    assert_eq!(left, 1, "no file beside it");
}

#[test]
fn damaged_file_is_refused_by_name_and_kept() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lun0.pr");
    save(&path, &Image::default()).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let error = load(&path).unwrap_err();
    assert!(matches!(
        error,
        FileError::Damaged { source: ImageError::Envelope(EnvelopeError::Checksum), .. }
    ));
    let text = error.to_string();
    assert!(text.contains(path.to_str().unwrap()) && text.contains("move it away"), "{text}");
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}

#[test]
fn crash_before_the_rename_leaves_the_old_image() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lun0.pr");
    let old = Image { aptpl: true, ..Image::default() };
    save(&path, &old).unwrap();
    std::fs::write(directory.path().join("lun0.pr.new"), b"half").unwrap();
    assert_eq!(load(&path).unwrap(), Some(old));
    save(&path, &Image::default()).unwrap();
    assert_eq!(load(&path).unwrap(), Some(Image::default()));
}

#[test]
fn a_place_that_cannot_be_written_is_an_error_with_its_path() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("missing").join("lun0.pr");
    let error = save(&path, &Image::default()).unwrap_err();
    assert!(matches!(error, FileError::Write { .. }) && error.to_string().contains("missing"));
}

#[test]
fn a_file_of_the_current_directory_is_written_and_removed_as_durably_as_any_other() {
    for (path, folder) in [("disk.pr", "."), ("a/disk.pr", "a"), ("/disk.pr", "/")] {
        assert_eq!(folder_of(Path::new(path)), Path::new(folder));
    }
}

#[test]
fn a_file_that_is_too_long_is_not_read_to_its_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("long");
    fs::write(&path, [0; 100]).unwrap();
    assert_eq!(read(&path, 99).unwrap().len(), 100);
    assert_eq!(read(&path, 10).unwrap().len(), 11);
    remove(&path).unwrap();
    remove(&path).unwrap();
    assert!(!path.exists());
}
