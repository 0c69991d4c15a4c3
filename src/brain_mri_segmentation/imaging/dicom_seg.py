"""A mask as a DICOM segmentation, which belongs to the series that it was made from."""

import hashlib
import io
import uuid
from copy import deepcopy
from typing import TYPE_CHECKING

import numpy as np

from brain_mri_segmentation import __version__
from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.imaging.geometry import LPS_TO_RAS, Geometry
from brain_mri_segmentation.imaging.overlay import ORANGE

if TYPE_CHECKING:
    from pydicom import Dataset

_NAME = "brain-mri-segmentation"
_LONGEST_DESCRIPTION = 1024  # characters of a short text (ST)
_MUST_BE_KNOWN = ("StudyInstanceUID", "FrameOfReferenceUID", "SOPInstanceUID")
_MAY_BE_EMPTY = (  # but must be there, which anonymisers do not heed
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "ReferringPhysicianName"),
    *("AccessionNumber", "StudyID", "StudyDate", "StudyTime"),
)


def write_seg(
    mask: np.ndarray, geometry: Geometry, model: str, digest: str, description: str = ""
) -> bytes:
    """Encode the mask of a DICOM series as DICOM SEG.

    Patient and study are those of the source, and each frame refers to its slice. The UIDs follow
    from source, mask, model and version: to make a segmentation again makes no second one.

    Args:
        mask: (N, H, W) uint8, 0 outside, slices of the axial view.
        geometry: Of the volume, with its headers.
        model: Name of the architecture.
        digest: Of the model.
        description: Of the segment, such as its volume in millilitres; in ASCII.

    Raises:
        InputError: The source is no DICOM series, or its headers lack what a segmentation needs;
            or highdicom is not installed.
    """
    if not geometry.headers:
        raise InputError("The volume does not come from DICOM, so there is no DICOM SEG of it.")
    try:
        import highdicom as hd
        from pydicom.sr.codedict import codes
    except ImportError as error:
        raise InputError(
            "DICOM SEG needs one more package: pip install 'brain-mri-segmentation[dicom]'"
        ) from error
    try:
        headers = [_completed(header) for header in geometry.headers]
        frames = _frames(mask, geometry)
        segment_uid, series_uid, instance_uid = _uids(headers, digest, frames)
        algorithm = hd.AlgorithmIdentificationSequence(
            name=f"{_NAME} {model}",
            family=codes.cid7162.ArtificialIntelligence,
            version=digest,
            source=_NAME,
        )
        segment = hd.seg.SegmentDescription(
            segment_number=1,
            segment_label="Lower-grade glioma, by a model",
            segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=hd.sr.CodedConcept("126952004", "SCT", "Neoplasm of brain"),
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
            tracking_uid=segment_uid,
            tracking_id="glioma",
            anatomic_regions=[codes.SCT.Brain],
            display_color=hd.color.CIELabColor.from_string(ORANGE),
        )
        if description:
            segment.SegmentDescription = description[:_LONGEST_DESCRIPTION]
        seg = hd.seg.Segmentation(
            source_images=headers,
            pixel_array=frames,
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=[segment],
            series_instance_uid=series_uid,
            series_number=int(headers[0].get("SeriesNumber") or 0) % 10**6 + 10**6,
            sop_instance_uid=instance_uid,
            instance_number=1,
            manufacturer=_NAME,
            manufacturer_model_name=model,
            software_versions=__version__,
            device_serial_number=digest,
            content_label="GLIOMA",
            content_description="By a model, not checked. Research use only.",
            omit_empty_frames=False,
            specific_character_set="ISO_IR 192",  # it refuses some that sources have
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"The headers of the series do not suffice for a DICOM SEG ({error}). "
            "Export the original series."
        ) from error
    seg.SeriesDescription = "Glioma by a model, research use only"
    buffer = io.BytesIO()
    seg.save_as(buffer)
    return buffer.getvalue()


def _completed(header: "Dataset") -> "Dataset":
    if lacking := [name for name in _MUST_BE_KNOWN if not header.get(name)]:
        raise ValueError(f"no {' and no '.join(lacking)}")
    header = deepcopy(header)
    for name in _MAY_BE_EMPTY:
        if name not in header:
            setattr(header, name, None)
    return header


def _uids(headers: list["Dataset"], digest: str, frames: np.ndarray) -> list[str]:
    """Return the UIDs of segment, series and instance."""
    sources = sorted(str(header.SOPInstanceUID) for header in headers)
    if len(set(sources)) < len(sources):
        raise ValueError("several images have the same SOPInstanceUID")
    found = hashlib.blake2b(frames.tobytes(), digest_size=16).hexdigest()
    text = " ".join([_NAME, __version__, digest, found, *sources])
    uids = (uuid.uuid5(uuid.NAMESPACE_OID, f"{n} {text}") for n in range(3))
    return [f"2.25.{uid.int}" for uid in uids]  # PS3.5, B.2


def _frames(mask: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Return the mask as (frames, rows, columns), 0 or 1, in the order of the source's frames."""
    frames = (geometry.to_source(mask) > 0).astype(np.uint8).transpose(2, 1, 0)
    if len(geometry.headers) == len(frames):
        return frames
    # One multi-frame object, whose frames are in any order.
    groups = geometry.headers[0].PerFrameFunctionalGroupsSequence
    places = [group.PlanePositionSequence[0].ImagePositionPatient for group in groups]
    from_ras = np.linalg.inv(geometry.affine) @ LPS_TO_RAS
    k = (from_ras[:3, :3] @ np.array(places, np.float64).T + from_ras[:3, 3:])[2]
    return frames[np.rint(k).astype(int)]
