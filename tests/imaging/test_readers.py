import re

import numpy as np
import pytest
from bad_inputs import DOCUMENTED, FILES
from pictures import encode, tiff, zipped
from PIL import Image
from scans import axial_affine, dicom_series, nifti, study

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.imaging.readers import (
    NotAnImage,
    Unreadable,
    find_volumes,
    read_files,
    read_sequences,
    read_slice,
    read_volume,
)
from brain_mri_segmentation.imaging.volume import MOST_SLICES
from brain_mri_segmentation.runtime.files import Folder

RGB = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
GREY = RGB[..., 0]


@pytest.mark.parametrize(
    "content",
    [encode(RGB), encode(RGB, "TIFF"), tiff(RGB), tiff(RGB, photometric="rgb", bigtiff=True)],
)
def test_rgb_of_8_bits_is_taken_as_it_is(content):
    assert np.array_equal(read_slice(content).slices[0], RGB)


def test_grey_is_repeated_in_all_channels():
    for content in (encode(GREY), tiff(GREY)):
        assert np.array_equal(read_slice(content).slices[0], np.repeat(GREY[..., None], 3, axis=2))


def test_a_palette_becomes_its_colours():
    picture = Image.fromarray(RGB).quantize(16)
    assert np.array_equal(read_slice(encode(picture)).slices[0], np.asarray(picture.convert("RGB")))


def test_opaque_alpha_is_dropped():
    opaque = np.dstack([RGB, np.full(RGB.shape[:2], 255, np.uint8)])
    assert np.array_equal(read_slice(encode(opaque)).slices[0], RGB)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_more_bits_are_scaled_linearly(dtype):
    ramp = np.arange(40 * 50).reshape(40, 50).astype(dtype)
    pixels = read_slice(tiff(ramp)).slices[0, ..., 0]
    top = np.percentile(ramp, 99.9)
    expected = np.clip(np.rint(ramp.astype(float) / top * 255), 0, 255)
    assert np.array_equal(pixels, expected)


def test_a_black_picture_of_16_bits_stays_black():
    assert read_slice(tiff(np.zeros((40, 50), np.uint16))).slices.max() == 0


@pytest.mark.parametrize("what", FILES)
def test_a_picture_is_taken_or_refused_as_documented(what):
    status, answer = DOCUMENTED[what]
    if status == 200:
        assert read_slice(FILES[what]).slices.shape == (1, 64, 80, 3)
    else:
        with pytest.raises(InputError, match=re.escape(answer)) as caught:
            read_slice(FILES[what])
        assert isinstance(caught.value, NotAnImage) == (status == 415)


def test_pages_of_a_stack_are_read_in_order():
    stack = np.stack([GREY, 255 - GREY, GREY // 2])
    pages = read_volume([tiff(stack, photometric="minisblack"), encode(RGB)]).slices
    assert all(np.array_equal(p[..., 0], s) for p, s in zip(pages[:3], stack, strict=True))
    assert np.array_equal(pages[3], RGB)


def test_slices_of_a_volume_share_the_scale_of_16_bits():
    bright = (np.arange(2000).reshape(40, 50) * 20).astype(np.uint16)
    dim = bright // 50  # noise above the head must not become as bright as the brain
    top = np.percentile(bright, 99.9)
    expected = np.clip(np.rint(dim / top * 255), 0, 255)
    for contents in ([tiff(bright), tiff(dim)], [tiff(np.stack([bright, dim]))]):
        assert np.array_equal(read_volume(contents).slices[1, ..., 0], expected)
    files = readers(bright=tiff(bright), text=b"text", dim=tiff(dim))
    problem, volume = read_files(files, "scan")
    assert (volume.name, volume.names) == ("scan", ("bright", "dim"))
    assert np.array_equal(volume.slices[1, ..., 0], expected)
    assert problem == Unreadable("text", "The file is no TIFF, PNG or JPEG by its own bytes.")


def test_too_many_pages_are_refused_before_they_are_read():
    pages = np.zeros((MOST_SLICES + 1, 40, 50), np.uint8)
    with pytest.raises(InputError, match="more than 512 slices"):
        read_volume([tiff(pages, photometric="minisblack")])
    large = tiff(np.zeros((5, 4096, 4096), np.uint8), photometric="minisblack", compression="zlib")
    with pytest.raises(InputError, match="pixels in all"):
        read_volume([large])


def test_the_faulty_file_of_a_volume_is_named_by_its_number():
    with pytest.raises(NotAnImage, match="File 2 of 3: The file is no TIFF"):
        read_volume([encode(RGB), b"text", encode(RGB)])


def test_a_file_whose_pages_form_a_loop_ends():
    content = bytearray(encode(GREY, "TIFF"))
    first = int.from_bytes(content[4:8], "little")
    entries = int.from_bytes(content[first : first + 2], "little")
    place = first + 2 + 12 * entries
    content[place : place + 4] = content[4:8]  # the next page is this one
    assert np.array_equal(read_slice(bytes(content)).slices[0, ..., 0], GREY)


PICTURES = {
    "p/p_10.png": encode(GREY // 2),
    "p/p_9.png": encode(GREY),
    "p/p_9_mask.png": b"not read",
    "p/.p_1.png": b"not read",
}
IN_ORDER = np.stack([np.repeat(grey[..., None], 3, axis=2) for grey in (GREY, GREY // 2)])


def test_pictures_of_a_zip_or_a_folder_are_a_volume_in_the_order_of_their_numbers(tmp_path):
    (tmp_path / "patient/p").mkdir(parents=True)
    for name, content in PICTURES.items():
        (tmp_path / "patient" / name).write_bytes(content)
    (tmp_path / "patient/notes.txt").write_text("not read")
    (tmp_path / "patient.zip").write_bytes(zipped(*PICTURES.items()))
    for source in ("patient", "patient.zip"):
        volume = read_volume(tmp_path / source)
        assert np.array_equal(volume.slices, IN_ORDER)
        assert (volume.name, volume.names) == ("patient", ("p/p_9", "p/p_10"))
        assert volume.in_one_file == source.endswith("zip")
    with pytest.raises(InputError, match="no file or folder .*nowhere"):
        read_volume(tmp_path / "nowhere")


HEAD = nifti(np.ones((64, 64, 2), np.int16), axial_affine((64, 64, 2), (4.0, 4.0, 4.0)))


@pytest.mark.parametrize(
    ("files", "slices"),
    [
        ({"p_1.png": encode(GREY), "p_2.png": encode(GREY), "notes.txt": b"text"}, 2),
        ({"p_1": encode(GREY), "p_2": encode(GREY, "TIFF"), "README": b"text"}, 2),
        ({"scan.nii.gz": HEAD, "README": b"text", "LICENSE.md": b"text"}, 2),
        ({"README": b"text", "notes.txt": b"text"}, "holds 0 files that may be slices"),
        ({"p_1.png": encode(GREY), "p_2.png": b"text", "README": b"text"}, "File 2 of 2: .* no "),
        ({"p_1.png": b"text", "README": b"text"}, "The file is no TIFF, PNG or JPEG"),
    ],
)
def test_what_is_no_slice_is_left_out_of_a_zip_as_of_a_folder(tmp_path, files, slices):
    (tmp_path / "folder").mkdir()
    for name, content in files.items():
        (tmp_path / "folder" / name).write_bytes(content)
    for source in (tmp_path / "folder", zipped(*files.items())):
        if isinstance(slices, int):
            assert len(read_volume(source).slices) == slices
        else:
            with pytest.raises(InputError, match=slices):
                read_volume(source)


def test_a_folder_of_several_patients_is_no_volume(tmp_path):
    for name in ("a_1", "b_1"):
        (tmp_path / f"{name}.png").write_bytes(encode(GREY))
    with pytest.raises(InputError, match="folder holds files of 2 volumes.*Make a folder for each"):
        read_volume(tmp_path)


def test_no_file_is_no_volume():
    with pytest.raises(InputError, match="There is no file"):
        read_volume([])


def test_slices_of_a_volume_have_one_size():
    small, large = encode(GREY), encode(np.zeros((64, 80), np.uint8))
    reason = "80 x 64 pixels, and the first slice of its volume 50 x 40"
    with pytest.raises(InputError, match=f"File 2 of 2: .*{reason}"):
        read_volume([small, large])
    problem, volume = read_files(readers(s_1=small, s_2=large, s_3=small), "s")
    assert volume.names == ("s_1", "s_3")
    assert problem.path == "s_2"
    assert reason in problem.reason


def test_stacks_and_zips_between_slices_are_volumes_of_their_own():
    stack = tiff(np.stack([GREY, 255 - GREY, GREY // 2]), photometric="minisblack")
    files = readers(s_1=encode(RGB), s_2=stack, s_3=zipped(*PICTURES.items()), s_4=encode(RGB))
    volumes = list(read_files(files, "s"))
    assert [(volume.name, volume.names, volume.in_one_file) for volume in volumes] == [
        ("s_2", ("s_2_1", "s_2_2", "s_2_3"), True),
        ("s_3", ("p/p_9", "p/p_10"), True),
        ("s", ("s_1", "s_4"), False),
    ]
    assert np.array_equal(volumes[0].slices[2, ..., 0], GREY // 2)
    assert np.array_equal(volumes[1].slices, IN_ORDER)
    assert np.array_equal(volumes[2].slices, np.stack([RGB, RGB]))
    assert len({volume.digest for volume in volumes}) == 3


def test_the_digest_says_what_each_sequence_was_taken_from(tmp_path):
    affine = axial_affine((64, 64, 2), (4.0, 4.0, 4.0))
    (tmp_path / "study").mkdir()
    for number in (3, 5):
        voxels = np.full((64, 64, 2), number, np.int16)
        (tmp_path / f"{number}.nii").write_bytes(nifti(voxels, affine))
        for n, content in enumerate(dicom_series(voxels, affine, study(), number)):
            (tmp_path / f"study/{number}_{n}.dcm").write_bytes(content)
    wrong = {"FLAIR": 3, "post-contrast": 5}
    corrected = {"pre-contrast": 3, "FLAIR": 5}
    digests = []
    for numbers in (wrong, corrected):
        files = {sequence: tmp_path / f"{number}.nii" for sequence, number in numbers.items()}
        same_folder = dict.fromkeys(numbers, tmp_path / "study")
        digests += [read_sequences(files).digest]
        digests += [read_sequences(same_folder, series=numbers).digest]
    assert len(set(digests)) == 4


def readers(**files):
    return {name: lambda content=content: content for name, content in files.items()}


@pytest.fixture
def folder(tmp_path):
    for name in ("p/p_1.tif", "p/p_1_mask.tif", "p/._p_1.tif", "single.PNG", "notes.txt", "z.zip"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(name.encode())
    return tmp_path / "in"


def found(*places, **options):
    volumes = find_volumes(*(Folder.at(str(place)) for place in places), **options)
    return {name: [read().decode() for read in files.values()] for name, files in volumes.items()}


def test_volumes_are_found_in_any_folder_without_masks_and_hidden_files(folder):
    assert found(folder) == {"p/p": ["p/p_1.tif"], "single": ["single.PNG"], "z": ["z.zip"]}
    assert found(folder / "single.PNG") == {"single": ["single.PNG"]}


def test_files_that_differ_by_their_ending_alone_are_both_found(folder):
    (folder / "single.tif").write_bytes(b"other")
    volumes = found(folder)
    assert (volumes["single"], volumes["single.tif"]) == (["single.PNG"], ["other"])


def test_no_volume_of_slices_is_called_as_a_file_that_may_be_a_stack(folder):
    for name in ("a.tif", "a_1.png", "a_2.png", "a_2_7.png", "a-2.png", "b_1.tif", "b_2.tif"):
        (folder / name).write_bytes(name.encode())
    volumes = found(folder)
    assert volumes.keys() == {"a-2", "a-3", "a_2-2", "b", "p/p", "single", "z"}
    assert volumes["a-3"] == ["a.tif", "a_1.png", "a_2.png"]
    assert volumes["a_2-2"] == ["a_2_7.png"]


def test_a_volume_among_slices_is_left_out(folder):
    files = readers(a_1=encode(RGB), a_2=HEAD, a_3=encode(RGB))
    volume, problem = read_files(files, "a")
    assert volume.names == ("a_1", "a_3")
    assert "a_2 holds a volume" in problem.reason


def test_several_places_are_searched_together(folder):
    (folder / "p/p_2.tif").write_bytes(b"p/p_2.tif")
    assert found(folder / "p", folder / "z.zip") == {
        "p/p": ["p/p_1.tif", "p/p_2.tif"],
        "z": ["z.zip"],
    }
    assert found(folder / "p/p_1.tif", folder / "p/p_2.tif") == {"p": ["p/p_1.tif", "p/p_2.tif"]}
    with pytest.raises(InputError, match="in holds a second in/p/p_1, whose results"):
        found(folder, folder)


def test_results_that_lie_in_the_folder_are_left_out(folder):
    leave_out = Folder.at(str(folder / "p"))
    assert found(folder, leave_out=leave_out).keys() == {"single", "z"}


def test_a_file_that_cannot_be_opened_is_left_out_alone(folder):
    files = find_volumes(Folder.at(str(folder)))["p/p"]
    (folder / "p/p_1.tif").unlink()
    (problem,) = read_files(files, "p/p")
    assert problem.path == "p/p_1"
    assert "cannot be opened" in problem.reason


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "nowhere does not exist"),
        (".", "holds no file that may be a slice or a volume"),
        ("notes.txt", "holds no file that may be a slice or a volume"),
    ],
)
def test_a_place_without_slices_is_refused(tmp_path, name, message):
    (tmp_path / "notes.txt").write_text("no slice")
    with pytest.raises(InputError, match=message):
        found(tmp_path / name)
