"""The local page. Imports neither numpy nor DICOM libraries: it shows what others have written."""
