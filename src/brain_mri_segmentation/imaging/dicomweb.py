"""Studies out of a PACS and segmentations into it, by DICOMweb: QIDO, WADO and STOW."""

import io
from collections.abc import Iterator
from contextlib import contextmanager

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.imaging.naming import sequence_of
from brain_mri_segmentation.imaging.readers import read_volume
from brain_mri_segmentation.imaging.volume import SEQUENCES, Volume

_MOST_BYTES = 2**30  # of the series of a study, which are held in memory


class Pacs:
    """A PACS that speaks DICOMweb.

    User and password come from ``~/.netrc``, as of other tools that use requests.

    Args:
        url: Root of its DICOMweb service, such as ``http://localhost:8042/dicom-web``.

    Raises:
        InputError: It is no such address, or dicomweb-client is not installed.
    """

    def __init__(self, url: str) -> None:
        try:
            from dicomweb_client.api import DICOMwebClient
        except ImportError as error:
            raise InputError(
                "A PACS needs more packages: pip install 'brain-mri-segmentation[dicom]'"
            ) from error
        self._url = url
        with self._clear_errors("be reached"):
            self._client = DICOMwebClient(url)
            self._client.set_http_retry_params(max_attempts=3)  # within seconds

    def read_study(self, study: str) -> Volume:
        """Fetch the MR series of a study that may be wanted, and read them as files are read.

        Args:
            study: Its UID, which becomes the name of the volume.

        Raises:
            InputError: The PACS does not answer, stops in between or has no MR series of it; they
                are too large; or they cannot be read.
        """
        from pydicom import Dataset, dcmwrite

        files: list[bytes] = []
        room = _MOST_BYTES
        with self._clear_errors(f"give study {study}"):
            found = self._client.search_for_series(study, search_filters={"Modality": "MR"})
            for series in map(Dataset.from_json, found):
                if sequence_of(series.get("SeriesDescription") or "") not in (None, *SEQUENCES):
                    continue
                before = len(files)
                for image in self._client.iter_series(study, series.SeriesInstanceUID):
                    buffer = io.BytesIO()
                    dcmwrite(buffer, image, enforce_file_format=True)
                    files.append(buffer.getvalue())
                    room -= len(files[-1])
                    if room < 0:
                        raise InputError(
                            f"The MR series of study {study} have more than {_MOST_BYTES // 2**20} "
                            "MiB. Export those that are wanted, and segment the files."
                        )
                expected = series.get("NumberOfSeriesRelatedInstances")
                if expected is not None and int(expected) != len(files) - before:
                    raise InputError(
                        f"{self._url} gave {len(files) - before} of the {expected} images of "
                        f"series {series.SeriesInstanceUID}. Try again."
                    )
        if not files:
            raise InputError(
                f"{self._url} has no series of MR in study {study}, or only such as are no FLAIR "
                "or T1 by their descriptions. Check the UID."
            )
        return read_volume(files, study)

    def store(self, content: bytes) -> bool:
        """Store a DICOM file, unless an object with its UID is there already.

        Returns:
            Whether it was stored.

        Raises:
            InputError: The PACS does not answer, or refuses it.
        """
        from pydicom import dcmread

        file = dcmread(io.BytesIO(content))
        study, uid = file.StudyInstanceUID, file.SOPInstanceUID
        with self._clear_errors("store the segmentation"):
            if self._client.search_for_instances(study, search_filters={"SOPInstanceUID": uid}):
                return False
            if refused := self._client.store_instances([file]).get("FailedSOPSequence"):
                raise InputError(
                    f"{self._url} refuses the segmentation (reason {refused[0].FailureReason})."
                )
        return True

    @contextmanager
    def _clear_errors(self, task: str) -> Iterator[None]:
        try:
            yield
        except InputError:
            raise
        # requests, its adapters and the client raise many kinds of errors on what a server does.
        except Exception as error:
            raise InputError(
                f"{self._url} could not {task}: {error}. Check the address and the PACS; what was "
                "written stays, and the same command goes on from there."
            ) from error
