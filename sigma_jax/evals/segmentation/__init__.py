"""Unsupervised video object segmentation and label propagation with frozen features (Salehi et al. 2024, Benchmark II).

The authors published the numbers and the protocol's name (TimeT: Salehi et al. 2023, "Time Does Tell"), but no code for
video transformers. Each point that they leave open is an option in `settings.py`, and every result lists the choices.

    layouts      sequences on disk: DAVIS, YouTube-VOS, or any folder
    frames       which frames are measured, and how they and their masks are resized
    clustering   standardise, PCA, upsample, k-means (kmeans.py): cluster maps
    matching     matching of clusters to objects, mIoU
    propagation  label propagation from the first frame
    region_boundary  J and F of the DAVIS challenge
    benchmark    features and scores of clips; the evaluator for training
    clustering_run, propagation_run  a whole set, in a folder (result_folder) that can be continued
"""
