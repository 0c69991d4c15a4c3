import io
import sys

import numpy as np
import pydicom
import pytest
from orthanc import Breaking, Orthanc, free_port
from scans import OBLIQUE, axial_affine, dicom_series, phantom, study

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.imaging import dicomweb
from brain_mri_segmentation.imaging.dicom_seg import write_seg
from brain_mri_segmentation.imaging.dicomweb import Pacs
from brain_mri_segmentation.imaging.readers import read_volume

VOXELS = phantom(6, 64)[0].transpose(2, 1, 0, 3)
AFFINE = axial_affine(VOXELS.shape[:3], (3.6, 3.6, 4.0), OBLIQUE)
COMMON = study()
pytestmark = pytest.mark.slow
UID = COMMON["StudyInstanceUID"]
FLAIR, POST = (
    dicom_series(VOXELS[..., channel], AFFINE, COMMON, number, description)
    for channel, number, description in ((1, 2, "AX T2 FLAIR"), (2, 3, "AX T1 POST GD"))
)
OTHERS = [
    *dicom_series(VOXELS[..., 0], AFFINE, COMMON, 4, "AX T2"),
    *dicom_series(VOXELS[..., 0], AFFINE, study("PHANTOM_2"), 5, "FLAIR"),
]


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory):
    server = Orthanc(tmp_path_factory.mktemp("orthanc"))
    server.upload([*FLAIR, *POST, *OTHERS])
    yield server
    server.stop()


def test_a_study_comes_as_its_files_would(orthanc):
    volume = Pacs(orthanc.url).read_study(UID)
    expected = read_volume([*FLAIR, *POST])
    assert np.array_equal(volume.slices, expected.slices)
    assert np.allclose(volume.geometry.affine, expected.geometry.affine)
    assert volume.missing == ("pre-contrast",)
    assert volume.name == UID
    assert any("'AX T1 POST GD' (6 images) was taken for post-contrast" in n for n in volume.notes)


def test_a_segmentation_is_stored_once(orthanc):
    pacs = Pacs(orthanc.url)
    geometry = pacs.read_study(UID).geometry
    first, again, other = (
        write_seg(np.full((6, 64, 64), value, np.uint8), geometry, "unet", "abc")
        for value in (0, 0, 255)
    )
    assert pacs.store(first)
    assert not pacs.store(again)
    assert pacs.store(other)  # another mask
    files = [pydicom.dcmread(io.BytesIO(stored)) for stored in orthanc.segmentations()]
    assert sorted(file.pixel_array.any() for file in files) == [False, True]
    assert {(file.StudyInstanceUID, file.PatientID) for file in files} == {(UID, "PHANTOM_1")}
    assert np.array_equal(pacs.read_study(UID).slices, read_volume([*FLAIR, *POST]).slices)


def test_a_pacs_that_is_not_there_or_knows_nothing(orthanc):
    with pytest.raises(InputError, match="127.0.0.1.*could not give study"):
        Pacs(f"http://127.0.0.1:{free_port()}/dicom-web").read_study(UID)
    with pytest.raises(InputError, match="could not give study"):
        Pacs(f"{orthanc.root}/elsewhere").read_study(UID)
    with pytest.raises(InputError, match="no series of MR in study 1.2.3"):
        Pacs(orthanc.url).read_study("1.2.3")
    with pytest.raises(InputError, match="could not be reached"):
        Pacs("orthanc")
    with pytest.raises(InputError, match="could not give study"):
        Pacs(orthanc.url).read_study("../../instances")


def test_a_pacs_that_goes_away_is_one_clear_error(orthanc):
    bytes_of_a_series = sum(map(len, FLAIR))
    for most in (100, bytes_of_a_series // 2, int(bytes_of_a_series * 1.5)):
        way = Breaking(orthanc.port, most)
        with pytest.raises(InputError, match=rf"127.0.0.1:{way.port}.* (could not give|gave \d)"):
            Pacs(f"http://127.0.0.1:{way.port}/dicom-web").read_study(UID)
        way.close()


def test_a_study_that_is_too_large_is_refused(orthanc, monkeypatch):
    monkeypatch.setattr(dicomweb, "_MOST_BYTES", 3 * len(FLAIR[0]))
    with pytest.raises(InputError, match="have more than 0 MiB"):
        Pacs(orthanc.url).read_study(UID)


def test_the_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "dicomweb_client.api", None)
    with pytest.raises(InputError, match=r"pip install 'brain-mri-segmentation\[dicom\]'"):
        Pacs("http://localhost/dicom-web")
