"""The local page: it shows what others have written, and takes files in. Only the latter needs DICOM libraries."""
