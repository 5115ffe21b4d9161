"""Arrays in: tables, images, synthetic targets with a known density, preprocessing."""

from flowebm.data.catalogue import Dataset as Dataset
from flowebm.data.catalogue import available as available
from flowebm.data.catalogue import load_dataset as load_dataset
from flowebm.data.dequantise import dequantise as dequantise
from flowebm.data.image_catalogue import available_images as available_images
from flowebm.data.image_catalogue import load_images as load_images
from flowebm.data.images import Images as Images
from flowebm.data.logit_pixels import LogitPixels as LogitPixels
from flowebm.data.split import Split as Split
from flowebm.data.split import split as split
from flowebm.data.standardise import Standardise as Standardise
from flowebm.data.tables import Choice as Choice
from flowebm.data.tables import Table as Table
from flowebm.data.tables import check_table as check_table
from flowebm.data.tables import read_table as read_table
from flowebm.data.targets import AbstractTarget as AbstractTarget
from flowebm.data.targets import Checkerboard as Checkerboard
from flowebm.data.targets import Funnel as Funnel
from flowebm.data.targets import GaussianMixture4 as GaussianMixture4
from flowebm.data.targets import Moons as Moons
from flowebm.data.targets import Multimodal10 as Multimodal10
from flowebm.data.targets import Rings as Rings
from flowebm.data.targets import Sine as Sine
from flowebm.data.targets import Swirl as Swirl
from flowebm.data.weights import check_weights as check_weights
from flowebm.data.weights import effective_rows as effective_rows
