"""Unsupervised video object segmentation and label propagation with frozen features (Salehi et al. 2024, Benchmark II).

The authors published the numbers and the protocol's name (TimeT: Salehi et al. 2023, "Time Does Tell"), but no code for
video transformers; what they leave open is an option in `settings.py`, and every result lists the choice made.

    layouts      sequences on disk: DAVIS, YouTube-VOS, any folder; what is wrong with them
    frames       which frames, how they and their masks are resized
    clustering   standardise, PCA, upsample, k-means (kmeans.py) -> cluster maps
    matching     clusters to objects, mIoU
    propagation  labels of the first frame carried through the video
    region_boundary  J and F of the DAVIS challenge
    benchmark    clips -> features -> scores; the monitor of a network that is still training
    clustering_run, propagation_run  a whole set in a folder (result_folder) that takes up where it was interrupted
"""
