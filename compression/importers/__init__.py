"""Layouts that can be imported, one module for each; a new one is a new module and a line here."""

from __future__ import annotations

from compression.importers.dicom_tree import DicomTreeImporter
from compression.importers.folder import FolderImporter
from compression.importers.nifti import NiftiImporter
from compression.importers.nih import NihImporter
from compression.importing import Importer

IMPORTERS: dict[str, Importer] = {
    importer.layout: importer for importer in (FolderImporter(), DicomTreeImporter(), NiftiImporter(), NihImporter())
}
